// Runs the scenario with the official TypeScript SDK, version 1, and its defaults: a call that takes 60 s fails.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { command, env, headers, run, transport, url } from "./scenario.mjs";

const transports = {
  stdio: () => new StdioClientTransport({ command, args: ["mcp"], env }),
  http: () => new StreamableHTTPClientTransport(new URL(url + "/mcp"), { requestInit: { headers } }),
  sse: () => new SSEClientTransport(new URL(url + "/sse"), { requestInit: { headers } }),
};
const client = new Client({ name: "typescript-v1", version: "1" });
await client.connect(transports[transport]());
await run("typescript-v1", async () => (await client.listTools()).tools.map((t) => t.name), (name, args) => client.callTool({ name, arguments: args }));
await client.close();
