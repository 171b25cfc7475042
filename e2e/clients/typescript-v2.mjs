// Runs the scenario with the official TypeScript SDK, version 2, which uses the newest protocol version that both sides support.
import assert from "node:assert/strict";
import { Client, SSEClientTransport, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";
import { command, env, headers, run, transport, url } from "./scenario.mjs";

const transports = {
  stdio: () => new StdioClientTransport({ command, args: ["mcp"], env }),
  http: () => new StreamableHTTPClientTransport(new URL(url + "/mcp"), { requestInit: { headers } }),
  sse: () => new SSEClientTransport(new URL(url + "/sse"), { requestInit: { headers } }),
};
// The SSE transport exists only in the old protocol versions, so there is nothing to negotiate.
const client = new Client({ name: "typescript-v2", version: "1" }, transport === "sse" ? {} : { versionNegotiation: { mode: "auto" } });
await client.connect(transports[transport]());
if (transport !== "sse") assert.equal(client.getNegotiatedProtocolVersion(), "2026-07-28");
await run("typescript-v2", async () => (await client.listTools()).tools.map((t) => t.name), (name, args) => client.callTool({ name, arguments: args }));
await client.close();
