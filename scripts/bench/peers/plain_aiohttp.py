"""aiohttp and nothing else, on uvloop: each message sent to each subscriber with `send_str`.

GET /s/CHANNEL subscribes; GET /p is a publisher, whose messages are `CHANNEL text`. Arguments: port, ping interval.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict

import uvloop
from aiohttp import WSMsgType, web

subscribers: defaultdict[str, set[web.WebSocketResponse]] = defaultdict(set)
ping_seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 25.0


async def subscribe(request: web.Request) -> web.WebSocketResponse:
    """One subscriber, until it goes."""
    socket = web.WebSocketResponse(compress=False, heartbeat=ping_seconds)
    await socket.prepare(request)
    channel = subscribers[request.match_info["channel"]]
    channel.add(socket)
    async for _ in socket:
        pass
    channel.discard(socket)
    return socket


async def publish(request: web.Request) -> web.WebSocketResponse:
    """One publisher, until it goes."""
    socket = web.WebSocketResponse(compress=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            channel, text = message.data[:6], message.data[7:]
            for subscriber in subscribers[channel]:
                await subscriber.send_str(text)
    return socket


async def serve(port: int) -> None:
    """Until the process ends."""
    app = web.Application()
    app.add_routes([web.get("/s/{channel}", subscribe), web.get("/p", publish)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
