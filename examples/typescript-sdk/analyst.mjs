// An analyst's session in a Dormouse sandbox, with the official TypeScript SDK over stdio.
//
//   npm ci && node analyst.mjs
//
// The steps below stand for the tool calls of a model. Replace them with your model's calls: listTools() returns the tools'
// schemas for the model, and callTool() makes a call that the model asks for.
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";

// The SDK passes few environment variables to the server, so list those that Dormouse needs.
const env = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => /^(PATH|HOME|USER|DORMOUSE_.*|DOCKER_.*|XDG_.*)$/.test(name)),
);
const client = new Client({ name: "typescript-analyst", version: "1.0.0" });
await client.connect(new StdioClientTransport({ command: process.env.DORMOUSE ?? "dormouse", args: ["mcp"], env }));

async function call(name, args) {
  const result = await client.callTool({ name, arguments: args });
  const text = result.content.filter((c) => c.type === "text").map((c) => c.text).join("\n");
  console.log(`\n--- ${name}\n${text}`);
  if (result.isError) throw new Error(`${name} failed`);
  return { ...result, text };
}

const { tools } = await client.listTools();
console.log("tools:", tools.map((t) => t.name).join(", "));

const created = await call("create_sandbox", { language: "javascript", ttl: "1h" });
const sandbox_id = created.structuredContent.id;
try {
  await call("execute_code", { sandbox_id, code: "const visits = new Map([['Ulm', 40], ['Bonn', 90]]);\nvisits" });
  // The variables of the previous call still exist.
  const sum = await call("execute_code", { sandbox_id, code: "[...visits.values()].reduce((a, b) => a + b)" });
  assert.match(sum.text, /130/);

  // The same sandbox also has a Python kernel. A figure is returned as a picture.
  const plot = await call("execute_code", {
    sandbox_id,
    language: "python",
    code: "import matplotlib.pyplot as plt\nplt.bar(['Ulm', 'Bonn'], [40, 90])",
  });
  const pictures = plot.content.filter((c) => c.type === "image");
  assert.equal(pictures.length, 1);
  await writeFile("visits.png", Buffer.from(pictures[0].data, "base64"));

  const failed = await call("execute_code", { sandbox_id, code: "null.length" });
  assert.match(failed.text, /TypeError/);
} finally {
  await call("delete_sandbox", { sandbox_id });
  await client.close();
}
