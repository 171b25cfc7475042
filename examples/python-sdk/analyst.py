"""An analyst's session in a Dormouse sandbox, with the official Python SDK over stdio.

    pip install --require-hashes -r requirements.txt   # or: pip install mcp
    python analyst.py

The steps below are what a model would ask for. Swap them for your model's tool calls: `client.list_tools()` has the
schemas to show it, and `client.call_tool(name, arguments)` carries out what it asks.
"""

import asyncio
import base64
import os
import pathlib
import shutil

from mcp import StdioServerParameters
from mcp.client import Client

CSV = "city,year,visitors\n" + "".join(f"{c},{y},{n + 7 * (y - 2020)}\n" for c, n in [("Ulm", 40), ("Bonn", 90)] for y in range(2020, 2026))


def server() -> StdioServerParameters:
    command = os.environ.get("DORMOUSE", shutil.which("dormouse") or "dormouse")
    # The SDK passes few environment variables to the server, so list those that Dormouse needs.
    env = {k: v for k, v in os.environ.items() if k.startswith(("DORMOUSE_", "DOCKER_", "XDG_"))}
    return StdioServerParameters(command=command, args=["mcp"], env=env)


async def call(client: Client, tool: str, **arguments):
    result = await client.call_tool(tool, arguments)
    text = "\n".join(c.text for c in result.content if c.type == "text")
    print(f"\n--- {tool}\n{text}")
    if result.is_error:
        raise SystemExit(f"{tool} failed")
    return result, text


async def main() -> None:
    async with Client(server()) as client:
        tools = await client.list_tools()
        print("tools:", ", ".join(t.name for t in tools.tools))

        created, _ = await call(client, "create_sandbox", display_name="analyst", ttl="1h")
        sandbox = created.structured_content["id"]
        try:
            await call(client, "write_files", sandbox_id=sandbox, files=[{"path": "visitors.csv", "text": CSV}])
            _, text = await call(client, "execute_code", sandbox_id=sandbox, code="import pandas as pd\ndf = pd.read_csv('visitors.csv')\ndf.groupby('city').visitors.mean()")
            assert "Bonn" in text, text

            # The variables of the previous call still exist, and a figure is returned as a picture.
            plot, _ = await call(client, "execute_code", sandbox_id=sandbox, code="df.pivot(index='year', columns='city', values='visitors').plot()")
            pictures = [c for c in plot.content if c.type == "image"]
            assert len(pictures) == 1, plot
            out = pathlib.Path("visitors.png")
            out.write_bytes(base64.b64decode(pictures[0].data))
            print("wrote", out, out.stat().st_size, "bytes")

            # An exception in the code is a normal result of the tool. The sandbox keeps running.
            _, text = await call(client, "execute_code", sandbox_id=sandbox, code="1 / 0")
            assert "ZeroDivisionError" in text, text
            _, text = await call(client, "execute_code", sandbox_id=sandbox, code="len(df)")
            assert "12" in text, text
        finally:
            await call(client, "delete_sandbox", sandbox_id=sandbox)


asyncio.run(main())
