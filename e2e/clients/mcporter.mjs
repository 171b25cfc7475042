// Runs the scenario with mcporter, through the runtime on which its command line and its generated clients are based.
import { createRuntime } from "mcporter";
import { command, env, headers, run, transport, url } from "./scenario.mjs";

const ways = {
  stdio: { kind: "stdio", command, args: ["mcp"], cwd: process.cwd() },
  http: { kind: "http", url: new URL(url + "/mcp"), headers },
  sse: { kind: "http", url: new URL(url + "/sse"), headers },
};
const runtime = await createRuntime({ servers: [{ name: "dormouse", command: ways[transport], env }] });
const list = async () => (await runtime.listTools("dormouse")).map((t) => t.name);
await run("mcporter", list, (name, args) => runtime.callTool("dormouse", name, { args }));
await runtime.close();
