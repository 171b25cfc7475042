"""LlamaIndex agent with a Dormouse sandbox, over HTTP: `dormouse serve` runs on this machine or another.

    pip install --require-hashes -r requirements.txt
    DORMOUSE_TOKEN=$(head -n 1 ~/.local/state/dormouse/token) OPENAI_API_KEY=… python analyst.py
"""

import asyncio
import os

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ImageBlock, TextBlock
from llama_index.llms.openai import OpenAIResponses
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

TASK = """Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done."""


class Dormouse(BasicMCPClient):
    """Gives the model plots as pictures: LlamaIndex itself writes them out in base64."""

    async def call_tool(self, *args, **kwargs):
        result = await super().call_tool(*args, **kwargs)
        shown = {"text": lambda c: TextBlock(text=c.text), "image": lambda c: ImageBlock(image=c.data.encode(), image_mimetype=c.mime_type)}
        return [shown[c.type](c) for c in result.content if c.type in shown]


async def main() -> None:
    url = os.environ.get("DORMOUSE_URL", "http://127.0.0.1:8765/mcp")
    # A call may wait up to 45 s for its code, but LlamaIndex's default timeout is 30 s.
    dormouse = Dormouse(url, headers={"Authorization": "Bearer " + os.environ["DORMOUSE_TOKEN"]}, timeout=120)
    tools = await McpToolSpec(client=dormouse).to_tool_list_async()
    llm = OpenAIResponses(model=os.environ.get("MODEL", "gpt-5-mini"), api_base=os.environ.get("OPENAI_BASE_URL"))
    agent = FunctionAgent(tools=tools, llm=llm, streaming=False)
    print(await agent.run(TASK))


asyncio.run(main())
