"""Pydantic AI agent with a Dormouse sandbox, over HTTP: `dormouse serve` runs on this machine or another.

    pip install --require-hashes -r requirements.txt
    DORMOUSE_TOKEN=$(head -n 1 ~/.local/state/dormouse/token) OPENAI_API_KEY=… python analyst.py
"""

import asyncio
import os

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

TASK = """Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done."""

dormouse = MCPToolset(
    os.environ.get("DORMOUSE_URL", "http://127.0.0.1:8765/mcp"),
    headers={"Authorization": "Bearer " + os.environ["DORMOUSE_TOKEN"]},
    include_instructions=True,
)
agent = Agent("openai:" + os.environ.get("MODEL", "gpt-5-mini"), toolsets=[dormouse])


async def main() -> None:
    async with agent:
        result = await agent.run(TASK)
        print(result.output)


asyncio.run(main())
