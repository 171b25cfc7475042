"""LangChain agent with a Dormouse sandbox, over stdio or, with DORMOUSE_URL and DORMOUSE_TOKEN, over HTTP.

    pip install --require-hashes -r requirements.txt
    OPENAI_API_KEY=… python analyst.py
"""

import asyncio
import os

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI

TASK = """Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done."""

if url := os.environ.get("DORMOUSE_URL"):
    server = {"transport": "http", "url": url, "headers": {"Authorization": "Bearer " + os.environ["DORMOUSE_TOKEN"]}}
else:
    env = {k: v for k, v in os.environ.items() if k.startswith(("DORMOUSE_", "DOCKER_", "XDG_"))}
    server = {"transport": "stdio", "command": "dormouse", "args": ["mcp"], "env": env}


async def main() -> None:
    client = MultiServerMCPClient({"dormouse": server})
    # All calls share one session. client.get_tools() would start a `dormouse mcp` for each call.
    async with client.session("dormouse") as session:
        tools = await load_mcp_tools(session)
        # A tool's answer may contain a plot. Of OpenAI's APIs only the Responses API accepts pictures in answers of tools.
        model = ChatOpenAI(model=os.environ.get("MODEL", "gpt-5-mini"), use_responses_api=True)
        agent = create_agent(model, tools)
        result = await agent.ainvoke({"messages": TASK})
        print(result["messages"][-1].text)


asyncio.run(main())
