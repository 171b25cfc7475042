"""Google ADK agent with a Dormouse sandbox, over stdio.

    pip install --require-hashes -r requirements.txt
    GOOGLE_API_KEY=… python analyst.py
"""

import asyncio
import base64
import os

from google.adk.agents import LlmAgent
from google.adk.runners import InMemoryRunner
from google.adk.tools.mcp_tool import McpToolset, StdioConnectionParams
from google.genai import types
from mcp import StdioServerParameters

TASK = """Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done."""

env = {k: v for k, v in os.environ.items() if k.startswith(("DORMOUSE_", "DOCKER_", "XDG_"))}
server = StdioServerParameters(command="dormouse", args=["mcp"], env=env)


async def keep_plots(tool, args, tool_context, tool_response):
    """Keeps plots as artifacts of the session: ADK itself would write them out for the model in base64."""
    shown = []
    for part in tool_response.get("content", []):  # an error of ADK itself has no content
        if part["type"] == "image":
            plot = types.Part.from_bytes(data=base64.b64decode(part["data"]), mime_type=part["mimeType"])
            version = await tool_context.save_artifact("plot", plot)
            part = {"type": "text", "text": f"kept as artifact 'plot', version {version}"}
        shown.append(part)
    return tool_response | {"content": shown} if shown else None


async def main() -> None:
    # A call may wait up to 45 s for its code, but ADK's default timeout is 5 s.
    dormouse = McpToolset(connection_params=StdioConnectionParams(server_params=server, timeout=120))
    agent = LlmAgent(name="analyst", model=os.environ.get("MODEL", "gemini-2.5-flash"), tools=[dormouse], after_tool_callback=keep_plots)
    async with InMemoryRunner(agent) as runner:
        events = await runner.run_debug(TASK, quiet=True)
        print(events[-1].content.parts[0].text)


asyncio.run(main())
