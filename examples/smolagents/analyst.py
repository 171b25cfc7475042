"""smolagents with a Dormouse sandbox, over stdio.

    pip install --require-hashes -r requirements.txt
    OPENAI_API_KEY=… python analyst.py
"""

import os

from mcp import StdioServerParameters
from smolagents import MCPClient, OpenAIModel, ToolCallingAgent

TASK = """Visitors of 2020 to 2025: Ulm 40, 47, 51, 60, 66, 70; Bonn 90, 85, 99, 104, 110, 121.
How do the two correlate? Plot them too, and delete the sandbox when you are done."""

env = {k: v for k, v in os.environ.items() if k.startswith(("DORMOUSE_", "DOCKER_", "XDG_"))}
server = StdioServerParameters(command="dormouse", args=["mcp"], env=env)

# Use a ToolCallingAgent: smolagents' CodeAgent would run the model's code in this process, not in the sandbox.
with MCPClient(server, structured_output=False) as tools:
    for tool in tools:  # smolagents treats all arguments of MCP tools as required; Dormouse itself checks the required ones
        for argument in tool.inputs.values():
            argument["nullable"] = True
    agent = ToolCallingAgent(tools=tools, model=OpenAIModel(os.environ.get("MODEL", "gpt-5-mini")), verbosity_level=0)
    print(agent.run(TASK))
