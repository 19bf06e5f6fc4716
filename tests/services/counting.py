"""Notes every request it answers: `counting.py PORT LOG [START]`.

A line of the log is `up MONOTONIC`, `down MONOTONIC`, `began NUMBER`, `whole NUMBER LENGTH SHA256` or `broken NUMBER`;
the number is the request's query. START: seconds until it listens, or a FIFO it reads first. On TERM it ends at once:
whatever is still on its way then is lost. /slow takes a second, /kept until the file LOG.go exists, /events is an event
stream that beats every 20 ms, and /answer sends the head and half of the body of an answer and keeps the rest.
"""

import asyncio
import hashlib
import os
import signal
import stat
import sys
import time

PORT, LOG = int(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
START = sys.argv[3] if len(sys.argv) > 3 else "0"


def note(*words):
    os.write(LOG, (" ".join(map(str, words)) + "\n").encode())  # one write, whole even beside other runs


def go(*_):
    note("down", time.monotonic())
    os._exit(0)


async def body_of(head, reader):
    """Pieces of a request's body; IncompleteReadError where it breaks."""
    if b"chunked" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return
    left = int(head.split(b"content-length:")[1].split(b"\r\n")[0]) if b"content-length:" in head else 0
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        yield piece


async def serve(reader, writer):
    number = None
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            path, _, number = head.split(b" ")[1].decode().partition("?")
            if head.startswith(b"get") and path == "/":
                note("whole", number, 0, "-")
                number = None
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                continue
            note("began", number)
            length, digest = 0, hashlib.sha256()
            async for piece in body_of(head, reader):
                length += len(piece)
                digest.update(piece)
            if path == "/slow":
                await asyncio.sleep(1)
            while path == "/kept" and not os.path.exists(sys.argv[2] + ".go"):
                await asyncio.sleep(0.01)
            note("whole", number, length, digest.hexdigest())
            number = None
            await answer(path, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        if number is not None:
            note("broken", number)
    finally:
        writer.close()


async def answer(path, writer):
    if path == "/events":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for count in range(1000):
            event = b"data: %d\ndata: more\n\n" % count
            # In two pieces, so that an end may come in the middle of an event.
            for piece in (event[:9], event[9:]):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")
    elif path == "/answer":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n0123456789")
        await asyncio.sleep(1000)
    else:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()


async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", PORT, backlog=1000, limit=1 << 20)
    note("up", time.monotonic())
    async with server:
        await server.serve_forever()


signal.signal(signal.SIGTERM, go)
if os.path.exists(START) and stat.S_ISFIFO(os.stat(START).st_mode):
    with open(START) as fifo:
        fifo.read()
else:
    time.sleep(float(START))  # how long this service takes to start
asyncio.run(main())
