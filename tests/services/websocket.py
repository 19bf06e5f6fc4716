"""A WebSocket echo by the `websockets` package: `websocket.py PORT`. "flood" is answered with messages without end."""

import asyncio
import os
import signal
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def echo(connection):
    await connection.send(str(os.getpid()))
    try:
        async for message in connection:
            if message == "flood":
                for count in range(1_000_000):
                    await connection.send(b"%08d" % count * 2000)
                    await asyncio.sleep(0)  # the others' turn
            await connection.send(message)
    except ConnectionClosed:
        pass


async def main():
    async with serve(echo, "127.0.0.1", int(sys.argv[1])):
        await asyncio.Event().wait()


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
asyncio.run(main())
