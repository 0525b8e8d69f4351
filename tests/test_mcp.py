"""MCP tools: the endpoints for language models."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from serving import served

from sisrm.ui import serving as serving_module
from sisrm.ui.settings import CONTROLS

MCP = "gradio_api/mcp"


@pytest.fixture
def listener():
    """(address of a web server, who has connected to it)."""
    asked, over = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)

        def listen():
            while not over.is_set():
                try:
                    asked.append(server.accept())
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        over.set()
        thread.join()


def test_without_the_package_its_addresses_are_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_module, "version", lambda name: {"mcp": "2.0"}[name])
    with served(tmp_path) as app:
        for path in ("schema", "sse", "http", ""):
            assert httpx.get(f"{app.local_url}{MCP}/{path}", timeout=30).status_code == 404


def test_the_endpoints_are_tools_and_fetch_no_address(url, listener):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    address, asked = listener
    content = io.BytesIO()
    Image.linear_gradient("L").resize((24, 20)).save(content, "PNG")
    image = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()

    async def use():
        async with (
            streamablehttp_client(f"{url}/{MCP}/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            name = next(name for name in tools if name.endswith("segment"))
            seen = await session.call_tool(name, {"image": image, "top_k": 2})
            fetched = await session.call_tool(name, {"image": f"{address}/a.png", "top_k": 2})
            return tools, seen, fetched

    with ThreadPoolExecutor(1) as thread:  # a browser test may have left a loop running in this one
        tools, seen, fetched = thread.submit(asyncio.run, use()).result(120)
    assert {name.rsplit("_", 1)[-1] for name in tools} == {"upscale", "segment", "preview"}
    for tool in tools.values():
        assert (
            set(tool.inputSchema["properties"]) <= {"image", "x", "y", *CONTROLS, "region", "format"}
            and tool.description
        )
    assert not seen.isError and any("labels" in getattr(part, "text", "") for part in seen.content)
    assert fetched.isError and asked == []
