// Runs scenario.json with a client in JavaScript. The scenario lists tool calls and the answers that each client must get.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const transport = process.argv[2];
export const { DORMOUSE: command, DORMOUSE_URL: url, DORMOUSE_TOKEN: token } = process.env;
export const headers = { Authorization: `Bearer ${token}` };

// Clients pass few environment variables to the server, so list those that Dormouse needs.
export const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(PATH|HOME|DORMOUSE_.*|DOCKER_.*|XDG_.*)$/.test(name)));

// run runs the scenario. list returns the names of all tools, and call calls one of them; the client supplies both functions.
export async function run(client, list, call) {
  const tools = await list();
  assert.equal(tools.length, 10, tools.join());
  const known = { name: `${client}-${transport}${process.env.DORMOUSE_SLOW ? "-slow" : ""}` };
  const fill = (text) => text.replace(/\$(\w+)/g, (_, name) => known[name]);
  const used = new Set();
  for (const step of JSON.parse(readFileSync(process.env.DORMOUSE_SCENARIO))) {
    if (step.slow && !process.env.DORMOUSE_SLOW) continue;
    used.add(step.tool);
    const result = await call(step.tool, JSON.parse(fill(JSON.stringify(step.args))));
    const text = result.content.filter((c) => c.type === "text").map((c) => c.text).join("\n");
    const where = `${step.tool} said: ${text}`;
    assert.equal(Boolean(result.isError), Boolean(step.error), where);
    assert.equal(result.content.filter((c) => c.type === "image").length, step.images ?? 0, where);
    for (const words of step.says) assert.ok(text.includes(fill(words)), `${fill(words)} is missing: ${where}`);
    for (const [name, pattern] of Object.entries(step.save ?? {})) known[name] = text.match(pattern)[0];
  }
  assert.deepEqual([...used].sort(), [...tools].sort());
}
