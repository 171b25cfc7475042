"""OpenAI Agents SDK with a Dormouse sandbox, over stdio.

    pip install --require-hashes -r requirements.txt
    OPENAI_API_KEY=… python analyst.py
"""

import asyncio
import os

from agents import Agent, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio

TASK = """Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done."""

env = {k: v for k, v in os.environ.items() if k.startswith(("DORMOUSE_", "DOCKER_", "XDG_"))}
set_tracing_disabled(True)  # a trace would send code and data to OpenAI


async def main() -> None:
    # A call may wait up to 45 s for its code, but the SDK's default timeout is 5 s.
    async with MCPServerStdio(params={"command": "dormouse", "args": ["mcp"], "env": env}, client_session_timeout_seconds=120) as dormouse:
        agent = Agent(name="analyst", model=os.environ.get("MODEL", "gpt-5-mini"), mcp_servers=[dormouse])
        result = await Runner.run(agent, TASK)
        print(result.final_output)


asyncio.run(main())
