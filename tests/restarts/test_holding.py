"""What held clients notice: order, pace, bodies, the header, and the ends of patience."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time

import pytest

from tests.restarts.load import NUMBERS, Noted, counting
from tests.restarts.raw import Raw, get, post
from tests.running import Wrapper, wait_until


class Late:
    """A wrapper whose service starts when the test says so; requests are held until then."""

    def __init__(self, folder, *options) -> None:
        self.log, self.fifo = folder / "log", folder / "go"
        self.log.touch()
        os.mkfifo(self.fifo)
        self.wrapper = Wrapper("--log-level", "debug", *options, command=counting(self.log, self.fifo), wait=False)
        self.port = self.wrapper.port

    def __enter__(self) -> Late:
        self.wrapper.wait_line("serving")
        return self

    def __exit__(self, *error) -> None:
        self.wrapper.__exit__(*error)

    def let_it_start(self) -> None:
        self.fifo.write_text("")  # blocks until the service reads

    def wait_held(self, count: int) -> None:
        wait_until(lambda: self.wrapper.status()["held"] == count, what=f"{count} held: {self.wrapper.status()}")

    def noted(self) -> Noted:
        return Noted(self.log)


@pytest.fixture
def late(tmp_path):
    started = []

    def start(*options):
        started.append(Late(tmp_path, *options))
        return started[-1].__enter__()

    yield start
    for each in started:
        each.__exit__(None, None, None)


def test_the_answer_says_how_long_its_request_was_held(late):
    subject = late()
    begin = time.monotonic()
    with Raw(subject.port, get()) as client:
        subject.wait_held(1)
        subject.let_it_start()
        status, fields, _ = client.read_response()
        assert status == 200
        assert 0 < float(fields["wrapper-held"]) <= time.monotonic() - begin + 0.1
        client.send(get())
        assert "wrapper-held" not in client.read_response()[1]


def test_health_never_waits_and_readiness_says_why(late):
    subject = late()
    assert subject.wrapper.request("GET", "/sidecar/healthz")[0] == 200
    status, _, body = subject.wrapper.request("GET", "/sidecar/readyz")
    assert (status, b"starting" in body) == (503, True), body
    subject.let_it_start()
    subject.wrapper.wait_state("running")
    assert subject.wrapper.request("GET", "/sidecar/readyz")[0] == 200


def test_readiness_stays_through_a_planned_restart(late):
    subject = late()
    subject.let_it_start()
    subject.wrapper.wait_state("running")
    assert subject.wrapper.command("POST", "/sidecar/api/restart")[0] == 202
    subject.wrapper.wait_state("starting")
    assert subject.wrapper.request("GET", "/sidecar/readyz")[0] == 200
    assert subject.wrapper.request("GET", "/sidecar/healthz")[0] == 200
    subject.let_it_start()


def test_held_requests_reach_the_service_in_the_order_they_came(late):
    subject = late()
    numbers = [next(NUMBERS) for _ in range(60)]
    clients = []
    for count, number in enumerate(numbers, 1):
        clients.append(Raw(subject.port, get(f"/?{number}")))
        if count % 10 == 0:
            subject.wait_held(count)
    subject.let_it_start()
    for client in clients:
        assert client.read_response()[0] == 200
        client.close()
    arrived = [int(line[0]) for line in subject.noted().of("whole")]
    assert sorted(arrived) == numbers
    # Let through in order; on the last steps two workers may overtake each other.
    places = [sum(arrived.index(number) for number in numbers[begin:begin + 20]) for begin in (0, 20, 40)]
    assert places == sorted(places)


@pytest.mark.parametrize("size", [0, 10, 65536, 8 << 20])
def test_a_held_body_arrives_once_and_whole(late, size):
    subject = late()
    body, number = os.urandom(size), next(NUMBERS)
    with Raw(subject.port) as client:
        sender = threading.Thread(target=client.send, args=(post(f"/?{number}", body),), daemon=True)
        sender.start()
        subject.wait_held(1)
        if size > 1 << 20:
            assert sender.is_alive(), "a body was read in advance"
        subject.let_it_start()
        assert client.read_response()[0] == 200
        sender.join(10)
    noted = subject.noted()
    assert noted.of("whole") == [[str(number), str(size), hashlib.sha256(body).hexdigest()]]
    assert len(noted.of("began")) == 1


def test_a_held_chunked_body_arrives_once_and_whole(late):
    subject = late()
    body, number = os.urandom(300_000), next(NUMBERS)
    head = b"POST /?%d HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" % number
    with Raw(subject.port, head) as client:
        subject.wait_held(1)
        subject.let_it_start()
        for begin in range(0, len(body), 50_000):
            client.send(b"%x\r\n%s\r\n" % (len(body[begin:begin + 50_000]), body[begin:begin + 50_000]))
        client.send(b"0\r\n\r\n")
        assert client.read_response()[0] == 200
    assert subject.noted().of("whole") == [[str(number), str(len(body)), hashlib.sha256(body).hexdigest()]]


def test_pipelined_requests_behind_a_held_one_are_not_lost(late):
    subject = late()
    numbers = [next(NUMBERS) for _ in range(5)]
    with Raw(subject.port, b"".join(get(f"/?{number}") for number in numbers)) as client:
        subject.wait_held(1)
        subject.let_it_start()
        assert [client.read_response()[0] for _ in numbers] == [200] * 5
    assert [int(line[0]) for line in subject.noted().of("whole")] == numbers


def test_a_client_that_leaves_frees_its_place(late):
    subject = late("--hold-max", "2")
    with Raw(subject.port, get()) as stays, Raw(subject.port, get()) as leaves:
        subject.wait_held(2)
        leaves.close()
        subject.wait_held(1)
        with Raw(subject.port, get()) as takes_the_place:
            subject.wait_held(2)
            subject.let_it_start()
            assert stays.read_response()[0] == takes_the_place.read_response()[0] == 200
    assert len(subject.noted().of("whole")) == 2


def test_too_many_get_503_with_retry_after(late):
    subject = late("--hold-max", "1")
    with Raw(subject.port, get()) as held:
        subject.wait_held(1)
        with Raw(subject.port, get()) as refused:
            status, fields, body = refused.read_response()
        assert status == 503
        assert int(fields["retry-after"]) >= 1
        assert b"1 requests wait already" in body
        subject.let_it_start()
        assert held.read_response()[0] == 200


def test_held_too_long_is_a_504_with_the_reason(late):
    subject = late("--hold", "300ms")
    begin = time.monotonic()
    with Raw(subject.port, get()) as client:
        status, fields, body = client.read_response()
        assert status == 504
        assert b"starting" in body
        assert re.search(rb"held for \d+\.\d s", body)
        assert 0.3 <= float(fields["wrapper-held"]) <= time.monotonic() - begin + 0.1


def test_hold_0_is_a_503_at_once(late):
    subject = late("--hold", "0")
    with Raw(subject.port, get()) as client:
        status, fields, _ = client.read_response()
        assert (status, "retry-after" in fields) == (503, True)


def test_waiting_costs_no_thread_each(late):
    subject = late()
    before = len(os.listdir(f"/proc/{subject.wrapper.process.pid}/task"))
    clients = [Raw(subject.port, get()) for _ in range(100)]
    subject.wait_held(100)
    assert len(os.listdir(f"/proc/{subject.wrapper.process.pid}/task")) < before + 20
    subject.let_it_start()
    for client in clients:
        assert client.read_response()[0] == 200
        client.close()


def test_those_who_wait_are_refused_when_the_service_is_stopped_for_good(late):
    subject = late()
    clients = [Raw(subject.port, get()) for _ in range(200)]
    subject.wait_held(200)
    subject.wrapper.process.terminate()
    for client in clients:
        with client:
            status, fields, _ = client.read_response()
            assert (status, "retry-after" in fields) == (503, True)
            assert client.read_end() == b""
