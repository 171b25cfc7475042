// Vercel AI SDK with a Dormouse sandbox, over HTTP: `dormouse serve` runs on this machine or another.
//
//   npm ci
//   DORMOUSE_TOKEN=$(head -n 1 ~/.local/state/dormouse/token) OPENAI_API_KEY=… node analyst.mjs
import { createMCPClient } from "@ai-sdk/mcp";
import { openai } from "@ai-sdk/openai";
import { generateText, stepCountIs } from "ai";

const task = `Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done.`;

const dormouse = await createMCPClient({
  transport: {
    type: "http",
    url: process.env.DORMOUSE_URL ?? "http://127.0.0.1:8765/mcp",
    headers: { Authorization: `Bearer ${process.env.DORMOUSE_TOKEN}` },
  },
});
try {
  const { text } = await generateText({
    model: openai(process.env.MODEL ?? "gpt-5-mini"),
    tools: await dormouse.tools(),
    stopWhen: stepCountIs(20), // without it the SDK stops after the first tool call
    prompt: task,
  });
  console.log(text);
} finally {
  await dormouse.close();
}
