// LangChain.js agent with a Dormouse sandbox, over stdio.
//
//   npm ci
//   OPENAI_API_KEY=… node analyst.mjs
import { MultiServerMCPClient } from "@langchain/mcp-adapters";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent } from "langchain";

const task = `Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done.`;

const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => /^(PATH|HOME|DORMOUSE_.*|DOCKER_.*|XDG_.*)$/.test(name)));

// forOpenAI converts a tool's answer for OpenAI's Responses API. LangChain.js itself would send a plot as base64 text.
const forOpenAI = (c) => (c.type === "image_url" ? { type: "input_image", image_url: c.image_url.url } : { type: "input_text", text: c.text });

const client = new MultiServerMCPClient({
  mcpServers: { dormouse: { transport: "stdio", command: "dormouse", args: ["mcp"], env } },
  afterToolCall: ({ result: [content, artifacts] }) => ({ result: [Array.isArray(content) ? content.map(forOpenAI) : content, artifacts] }),
});
try {
  const model = new ChatOpenAI({ model: process.env.MODEL ?? "gpt-5-mini", useResponsesApi: true });
  const agent = createAgent({ model, tools: await client.getTools() });
  const { messages } = await agent.invoke({ messages: task });
  console.log(messages.at(-1).text);
} finally {
  await client.close();
}
