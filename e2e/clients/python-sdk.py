"""Runs the scenario with the official Python SDK, which uses the newest protocol version that both sides support."""

import asyncio
import json
import os
import re
import sys

import httpx2
from mcp import StdioServerParameters
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

transport, url = sys.argv[1], os.environ["DORMOUSE_URL"]
headers = {"Authorization": "Bearer " + os.environ["DORMOUSE_TOKEN"]}
# The SDK passes few environment variables to the server, so list those that Dormouse needs.
env = {k: v for k, v in os.environ.items() if k.startswith(("DORMOUSE_", "DOCKER_", "XDG_"))}


def connect() -> Client:
    match transport:
        case "stdio":
            return Client(StdioServerParameters(command=os.environ["DORMOUSE"], args=["mcp"], env=env))
        case "http":
            return Client(streamable_http_client(url + "/mcp", http_client=httpx2.AsyncClient(headers=headers, timeout=60)))
        case "sse":
            return Client(sse_client(url + "/sse", headers=headers), mode="legacy")


async def main() -> None:
    async with connect() as client:
        tools = {t.name for t in (await client.list_tools()).tools}
        assert len(tools) == 10, tools
        known, used = {"name": f"python-sdk-{transport}"}, set()

        def fill(text: str) -> str:
            return re.sub(r"\$(\w+)", lambda m: known[m[1]], text)

        for step in json.load(open(os.environ["DORMOUSE_SCENARIO"])):
            if step.get("slow") and not os.environ.get("DORMOUSE_SLOW"):
                continue
            used.add(step["tool"])
            result = await client.call_tool(step["tool"], json.loads(fill(json.dumps(step["args"]))))
            text = "\n".join(c.text for c in result.content if c.type == "text")
            where = f"{step['tool']} said: {text}"
            assert bool(result.is_error) == step.get("error", False), where
            assert len([c for c in result.content if c.type == "image"]) == step.get("images", 0), where
            for words in step["says"]:
                assert fill(words) in text, f"the answer does not contain {fill(words)}: {where}"
            for name, pattern in step.get("save", {}).items():
                known[name] = re.search(pattern, text)[0]
        assert used == tools, used


asyncio.run(main())
