"""A crowd that joins, talks and leaves as it likes, over planned restarts: nothing is lost, nothing stays behind.

RFC 6455 section 7.4.1 and IANA's registry for 1012 (service restart).
"""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import os
import pathlib
import random
import resource
import socket
import struct
import time

import pytest

from tests.restarts.vitals import vitals
from tests.running import PATIENCE, Wrapper, service, wait_until

WEBSOCKETS, STREAMS, POLLS = 500, 200, 20
ROUND_TIME = 30.0  # seconds; in the middle of each round is a restart
PAUSE = 0.05  # seconds between two plain requests
SECONDS_OPEN = 8.0  # at most, for a client that leaves by itself
# What one round may leave in the process that the one before has not: a leak of a KiB a connection would be 3 MiB, and
# the allocator's arenas differ by the largest crowd there happened to be, which malloc_trim does not level.
GROWTH_MAX = 4 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close(2) sends an RST


def masked(kind, payload):
    """One frame of a client with a mask of zeros (RFC 6455 section 5.3)."""
    return bytes((0x80 | kind, 0x80 | len(payload))) + bytes(4) + payload


class Crowd:
    """Clients that come and go until `is_over`; `faults` says what none of them should have seen."""

    def __init__(self, port):
        self.port = port
        self.is_over = asyncio.Event()
        self.is_steady = False  # none leaves by itself
        self.faults = []
        self.counts = collections.Counter()
        self.open = set()  # WebSockets that talk, each until it is told to leave or begins to by itself
        self.told = set()  # WebSockets that got a 1012
        self.slowest = 0.0

    async def run(self, act):
        """`act` again and again, whatever becomes of each."""
        while not self.is_over.is_set():
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await asyncio.wait_for(act(reader, writer), 60)
            except Exception as error:  # noqa: BLE001  all of them are counted
                self.faults.append(f"{act.__name__}: {error!r}")
            finally:
                writer.close()
                self.counts[act.__name__] += 1

    async def leave(self, reader, writer, goodbye=b""):
        """Properly, without a word, or by halves; with `goodbye` the other side has its own end to say."""
        way = random.choice(("properly", "reset", "half"))
        self.counts[way] += 1
        if way == "reset":
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()
            return
        if way == "properly" and goodbye:
            writer.write(goodbye)
            await self._read_close(reader)
        elif way == "half":
            writer.write_eof()
            # A stream that its client seems to have left breaks off; a tunnel carries the end over.
            with contextlib.suppress(*([] if goodbye else [ConnectionResetError])):
                while await reader.read(65536):
                    pass

    async def _read_close(self, reader):
        while (await self.frame(reader))[0] != 8:
            pass

    @staticmethod
    async def frame(reader):
        head = await reader.readexactly(2)
        return head[0] & 0x0F, await reader.readexactly(head[1])

    def _may_leave(self, end):
        return self.is_over.is_set() or (not self.is_steady and time.monotonic() > end)

    async def websocket(self, reader, writer):
        writer.write(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % base64.b64encode(os.urandom(16)))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        end = time.monotonic() + random.uniform(0, SECONDS_OPEN)
        self.open.add(writer)
        try:
            while not self._may_leave(end):
                said = os.urandom(random.randint(1, 100))
                writer.write(masked(2, said))
                kind, heard = await self.frame(reader)
                if kind == 8:
                    assert heard == struct.pack("!H", 1012), heard
                    self.told.add(writer)
                    writer.write(masked(8, heard))
                    return
                assert heard == said
                await asyncio.sleep(random.uniform(0.1, 1.0))  # a client's own pace
        finally:
            self.open.discard(writer)
        await self.leave(reader, writer, masked(8, struct.pack("!H", 1000)))

    async def events(self, reader, writer):
        writer.write(b"GET /events HTTP/1.1\r\nHost: h\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        end = time.monotonic() + random.uniform(0, SECONDS_OPEN)
        while not self._may_leave(end):
            size = int(await reader.readuntil(b"\r\n"), 16)
            piece = await reader.readexactly(size + 2)
            if not size:
                self.counts["streams ended for a restart"] += 1
                return
            assert not piece.replace(b"data: x\n\n", b"").strip(), piece
        await self.leave(reader, writer)

    async def poll(self, reader, writer):
        await self._ask(reader, writer, b"/poll")

    async def plain(self, reader, writer):
        began = time.monotonic()
        await self._ask(reader, writer, b"/")
        self.slowest = max(self.slowest, time.monotonic() - began)

    @staticmethod
    async def _ask(reader, writer, path):
        writer.write(b"GET %b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" % path)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok"), answer

    async def ask_on(self):
        """A plain request every so often, each on a connection of its own, whatever becomes of the one before."""
        asked = set()
        while not self.is_over.is_set():
            asked.add(asyncio.ensure_future(self._ask_once()))
            await asyncio.sleep(PAUSE)
        await asyncio.gather(*asked)

    async def _ask_once(self):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.wait_for(self.plain(reader, writer), PATIENCE)
            writer.close()
        except Exception as error:  # noqa: BLE001  all of them are counted
            self.faults.append(f"plain: {error!r}")
        self.counts["plain"] += 1


async def one_round(wrapper):
    """A crowd and a restart in its midst; returns the crowd when all of it has left."""
    crowd = Crowd(wrapper.port)
    acts = [crowd.websocket] * WEBSOCKETS + [crowd.events] * STREAMS + [crowd.poll] * POLLS
    everyone = [asyncio.ensure_future(crowd.run(act)) for act in acts]
    everyone.append(asyncio.ensure_future(crowd.ask_on()))
    await asyncio.sleep(ROUND_TIME / 2)
    crowd.is_steady = True
    there = set(crowd.open)
    assert len(there) > WEBSOCKETS / 2
    status, said = await asyncio.get_event_loop().run_in_executor(
        None, wrapper.command, "POST", "/sidecar/api/restart?wait=1")
    assert status == 200, said
    while not there <= crowd.told and not crowd.faults:
        await asyncio.sleep(0.01)
    crowd.is_steady = False
    await asyncio.sleep(ROUND_TIME / 2)
    crowd.is_over.set()
    await asyncio.gather(*everyone)
    return crowd


def left_over(wrapper):
    """What the wrapper holds once a fresh run has begun: the connections kept to the service go with the one before."""
    assert wrapper.command("POST", "/sidecar/api/restart?wait=1")[0] == 200
    assert wrapper.command("GET", "/sidecar/api/status")[1]["in_flight"] == 0
    readings = collections.deque(maxlen=20)

    def is_settled():
        readings.append(vitals(wrapper.process.pid))
        return len(readings) == readings.maxlen and len(set(readings)) == 1

    wait_until(is_settled)
    return readings[0]


def resident(wrapper):
    return int(pathlib.Path(f"/proc/{wrapper.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.soak
def test_a_crowd_comes_and_goes_over_restarts_and_leaves_nothing_behind():
    with Wrapper("--drain-timeout", "5s", command=service("crowd")) as wrapper:
        before, memory = left_over(wrapper), []
        for _ in range(2):
            crowd = asyncio.run(one_round(wrapper))
            print(dict(crowd.counts), f"slowest plain request {crowd.slowest:.2f} s")
            assert not crowd.faults, collections.Counter(crowd.faults).most_common(10)
            assert crowd.counts["plain"] > ROUND_TIME / PAUSE / 4
            wait_until(lambda: left_over(wrapper) == before, what=before)
            memory.append(resident(wrapper))
        print(f"{before}, {memory[0] / 2**20:.1f} MiB, then {memory[1] / 2**20:.1f} MiB")
        assert memory[1] - memory[0] < GROWTH_MAX
        assert wrapper.command("GET", "/sidecar/api/problems") == (200, [])
