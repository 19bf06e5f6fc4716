"""A balancer that knows nothing of HTTP, as Kubernetes' Service is one, and clients that ask through it."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import threading


class Balancer:
    """Connections go to `backends`, (host, port) pairs, in turn; one that is taken out keeps the connections it has."""

    def __init__(self):
        self.backends = []
        self._turn = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="balancer")

    def __enter__(self):
        self._thread.start()
        server = self._call(asyncio.start_server(self._pass_on, "127.0.0.1", 0, backlog=1024))
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _pass_on(self, reader, writer):
        try:
            there = await asyncio.open_connection(*self.backends[next(self._turn) % len(self.backends)])
        except OSError:
            writer.transport.abort()  # a connection refused, to the client
            return
        await asyncio.gather(copy(reader, there[1]), copy(there[0], writer), return_exceptions=True)


async def copy(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        writer.transport.abort()
    finally:
        writer.close()


class Clients:
    """`count` clients, every second one with a new connection for each request; what fails is kept."""

    def __init__(self, port, path, count=64):
        self.failures, self.served = [], 0
        self._port, self._path = port, path
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number % 2 == 0,), name=f"client {number}")
                         for number in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, is_kept):
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._stopping.wait(0.02):  # their pace, so that the two cores are not theirs alone
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append(answer.status)
                self.served += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
            if not is_kept:
                connection.close()
        connection.close()
