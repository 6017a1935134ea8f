"""A client of an MCP server: each request in a session of its own."""

import asyncio


def send(address, request, headers=None):
    """Send one request, a function of the session, with headers."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def send_async():
        async with (
            streamablehttp_client(address, headers=headers) as (incoming, outgoing, _),
            ClientSession(incoming, outgoing) as session,
        ):
            await session.initialize()
            return await request(session)

    return asyncio.run(send_async())


def call_tool(address, tool, headers=None, **arguments):
    """Call a tool."""
    return send(address, lambda session: session.call_tool(tool, arguments), headers)
