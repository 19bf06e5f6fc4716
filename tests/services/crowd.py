"""Whatever a client may wait for: `crowd.py PORT`.

/ws echoes WebSocket messages of up to 125 bytes; /events is a stream of events without end; /poll answers after a
second; any other path at once.
"""

import asyncio
import base64
import hashlib
import os
import signal
import sys

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
EVENT_INTERVAL = 0.5  # seconds
POLL_TIME = 1.0


async def echo(reader, writer):
    """RFC 6455 section 5.2: one short masked frame after the other; a Close is answered with its own."""
    while True:
        head = await reader.readexactly(6)
        payload = await reader.readexactly(head[1] & 0x7F)
        clear = bytes(byte ^ head[2 + at % 4] for at, byte in enumerate(payload))
        writer.write(bytes((head[0], len(clear))) + clear)
        await writer.drain()
        if head[0] & 0x0F == 8:
            return


async def stream(reader, writer):
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not reader.at_eof():
        writer.write(b"9\r\ndata: x\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(EVENT_INTERVAL)


async def answer(reader, writer):
    """One request; True where another may follow."""
    head = await reader.readuntil(b"\r\n\r\n")
    path = head.split(b" ", 2)[1]
    if path == b"/ws":
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accept = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept)
        await echo(reader, writer)
        return False
    if path == b"/events":
        await stream(reader, writer)
        return False
    if path == b"/poll":
        await asyncio.sleep(POLL_TIME)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()
    return True


async def serve(reader, writer):
    try:
        while await answer(reader, writer):
            pass
    except (asyncio.IncompleteReadError, OSError):
        pass  # the client left
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    async with server:
        await server.serve_forever()


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
asyncio.run(main())
