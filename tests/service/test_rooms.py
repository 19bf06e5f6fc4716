"""The small rooms of service/: agenda, policy, probe, output, launcher, reload."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from tests.running import wait_until
from wrapper import sockets
from wrapper.address import tcp, unix
from wrapper.deadline import Deadline
from wrapper.errors import Busy
from wrapper.events import Feed
from wrapper.problems import Board
from wrapper.service import output as rooms_output
from wrapper.service import probe
from wrapper.service.agenda import Agenda
from wrapper.service.launcher import Launcher
from wrapper.service.output import KEPT_BYTES, Output
from wrapper.service.policy import JITTER, Policy
from wrapper.service.probe import Probe
from wrapper.service.reload import by_path

ANY = ((200, 399),)


# agenda.py

def test_like_actions_share_a_ticket_until_they_begin():
    agenda = Agenda()
    one, is_new = agenda.ask("restart", "a")
    assert is_new
    assert agenda.ask("restart", "b") == (one, False)
    assert agenda.take() is one
    two, is_new = agenda.ask("restart", "c")
    assert is_new and two is not one
    assert agenda.take() is None
    agenda.finish(one, None)
    assert one.wait(0) and agenda.take() is two


@pytest.mark.parametrize(("under_way", "asked", "fits"), [
    ("start", "restart", True), ("restart", "reload", True), ("reload", "restart", True), ("stop", "restart", False),
    ("start", "stop", False), ("restart", "stop", False), ("restart", "start", False), ("stop", "start", False)])
def test_conflicts(under_way, asked, fits):
    agenda = Agenda()
    agenda.ask(under_way, "first")
    agenda.take()
    if fits:
        assert agenda.ask(asked, "second")[1]
    else:
        with pytest.raises(Busy, match=f"a {under_way} is under way"):
            agenda.ask(asked, "second")


def test_a_closed_agenda_ends_what_has_not_begun():
    agenda = Agenda()
    one, _ = agenda.ask("restart", "a")
    agenda.take()
    two, _ = agenda.ask("restart", "b")
    agenda.close("over")
    assert two.is_done and two.error == "over"
    assert not one.is_done
    with pytest.raises(Busy, match="over"):
        agenda.ask("start", "c")


# policy.py

def test_pauses_double_up_to_the_longest_and_begin_again_after_steadiness():
    policy = Policy("always", (1.0, 4.0))
    pauses = [policy.pause(1, 0.0) for _ in range(5)]
    for pause, expected in zip(pauses, (1, 2, 4, 4, 4)):
        assert expected * (1 - JITTER) <= pause <= min(expected * (1 + JITTER), 4.0)
    assert policy.pause(1, 31.0) <= 1 + JITTER


@pytest.mark.parametrize(("mode", "status", "again"), [
    ("never", 1, False), ("on-failure", 0, False), ("on-failure", 1, True), ("always", 0, True)])
def test_policies(mode, status, again):
    assert (Policy(mode, (1.0, 2.0)).pause(status, 0.0) is not None) is again


# probe.py

@pytest.fixture
def answering():
    """Listens and answers every connection with the given bytes; yields a function that starts one."""
    listeners = []

    def start(answer, family=socket.AF_INET, place=("127.0.0.1", 0)):
        listener = socket.socket(family)
        listener.bind(place)
        listener.listen()
        listeners.append(listener)

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if answer is not None:
                        connection.recv(4096)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_connection_is_enough_without_a_path(answering):
    assert Probe(None, ANY).fault(tcp(*answering(None))) is None


def test_nothing_there_is_a_fault():
    assert "nothing answers" in Probe(None, ANY).fault(tcp("127.0.0.1", sockets.free_port()))


@pytest.mark.parametrize(("answer", "fault"), [
    (b"HTTP/1.1 200 OK\r\n\r\n", None), (b"HTTP/1.0 302 Found\r\n\r\n", None), (b"HTTP/1.1 503 No\r\n\r\n", "503"),
    (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", None),
    (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 No\r\n\r\n", "503"), (b"HTTP/1.1 100 a\r\n\r\n", "not HTTP"),
    (b"SSH-2.0-x\r\n", "not HTTP"), (b"", "not HTTP"), (b"HTTP/1.1 2x0\r\n", "not HTTP"), (b"x" * 5000, "not HTTP")])
def test_a_path_must_answer_with_the_right_status(answering, answer, fault):
    found = Probe("/ready", ANY).fault(tcp(*answering(answer)))
    assert found is None if fault is None else fault in found


def test_unix_sockets_are_probed_too(answering, tmp_path):
    place = str(tmp_path / "s")
    answering(b"HTTP/1.1 204 x\r\n\r\n", socket.AF_UNIX, place)
    assert Probe("/", ANY).fault(unix(place)) is None


def test_a_port_that_answers_is_taken(answering):
    assert probe.is_taken(tcp(*answering(None)))
    assert not probe.is_taken(tcp("127.0.0.1", sockets.free_port()))


def test_reload_by_path_wants_a_2xx(answering):
    assert by_path("/-/reload")(None, tcp(*answering(b"HTTP/1.1 200 OK\r\n\r\n"))) is None
    assert "answers 500" in by_path("/-/reload")(None, tcp(*answering(b"HTTP/1.1 500 no\r\n\r\n")))


# launcher.py

class Spy:
    def spawn(self, command, environment, on_end, **streams):
        self.command, self.environment = command, environment


@pytest.mark.parametrize(("environment", "upstream", "port"), [
    ({}, tcp("127.0.0.1", 5), None), ({"PORT": "80"}, tcp("127.0.0.1", 5), "5"), ({"PORT": "80"}, unix("/s"), "80")])
def test_the_port_rule(environment, upstream, port):
    spy = Spy()
    launcher = Launcher(["serve", "--port={port}"], upstream, environment, spy, None)
    launcher.launch(launcher.choose_address(), None)
    assert spy.environment.get("PORT") == port
    assert environment.get("PORT") in (None, "80")
    if not upstream.is_unix:
        assert spy.command == ["serve", "--port=5"]


def test_variables_come_over_the_environment_with_the_port_in_them():
    spy, environment = Spy(), {"PORT": "80", "KEPT": "1", "OVER": "2"}
    variables = (("OVER", "at {port}"), ("PORT", "{port}0"))
    launcher = Launcher(["serve"], tcp("127.0.0.1", 5), environment, spy, None, variables=variables)
    launcher.launch(launcher.choose_address(), None)
    assert spy.environment == {"KEPT": "1", "OVER": "at 5", "PORT": "50"}
    assert environment == {"PORT": "80", "KEPT": "1", "OVER": "2"}


def test_a_chosen_port_is_a_new_one_each_time():
    launcher = Launcher(["serve", "{port}"], None, {}, Spy(), None)
    assert launcher.choose_address() != launcher.choose_address()


# output.py

@pytest.fixture
def output(monkeypatch):
    """An Output whose stdout is a pipe of the test's."""
    reading, writing = os.pipe()
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(writing if descriptor == 1 else descriptor, data))
    subject = Output(Board(Feed()), "service")
    subject.reading, subject.passed = reading, writing
    yield subject
    for descriptor in (reading, writing):
        os.close(descriptor)


def send(output, data):
    stdout, stderr = output.streams()
    os.close(stderr)
    with open(stdout, "wb", buffering=0) as pipe:
        view = memoryview(data)
        while view:
            view = view[pipe.write(view):]


def test_output_passes_unchanged(output):
    data = bytes(range(256)) * 16
    send(output, data)
    got = b""
    while len(got) < len(data):
        got += os.read(output.reading, 65536)
    assert got == data


def test_a_line_of_any_length_blocks_nobody_and_the_newest_100_kib_are_kept(output):
    got = []

    def drain():
        while len(b"".join(got)) < 3_000_000:
            got.append(os.read(output.reading, 1 << 20))

    reader = threading.Thread(target=drain)
    reader.start()
    send(output, b"x" * 2_900_000 + b"\nlast\n" + b"y" * 99_994)
    reader.join(20)
    assert not reader.is_alive()
    output.finish(Deadline(5.0))
    assert output.lines(2) == ["last", "y" * 99_994]
    assert len("".join(output.lines(10))) <= KEPT_BYTES


def test_a_second_pipe_that_cannot_be_had_leaves_none(monkeypatch):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    subject, before, pipe, made = Output(Board(Feed()), "service"), descriptors(), os.pipe, []

    def scarce():
        if made:
            raise OSError(24, "Too many open files")
        made.append(1)
        return pipe()

    monkeypatch.setattr(os, "pipe", scarce)
    with pytest.raises(OSError, match="Too many"):
        subject.streams()
    wait_until(lambda: descriptors() == before)


def test_binary_output_is_shown_with_replacements(output):
    send(output, b"\xff\xfe ok\n")
    output.finish(Deadline(5.0))
    assert output.lines(1) == ["\ufffd\ufffd ok"]


def test_following(output):
    position, _ = output.after(None, 0)
    send(output, b"one\n")
    output.finish(Deadline(5.0))
    position, data = output.after(position, 5)
    assert data == b"one\n"
    assert output.after(position, 0) == (position, b"")


def test_a_reader_that_left_does_not_block_the_service(monkeypatch):
    def broken(descriptor, data):
        raise BrokenPipeError(32, "Broken pipe")

    subject = Output(Board(Feed()), "service")
    stdout, stderr = subject.streams()
    os.close(stderr)
    monkeypatch.setattr(os, "write", broken)
    with open(stdout, "wb", buffering=0) as pipe:
        pipe.writelines([b"z" * 65536] * 100)
    monkeypatch.undo()
    subject.finish(Deadline(5.0))
    wait_until(lambda: len(subject._board) == 1)


def test_a_slow_reader_gets_the_last_words_too(output, monkeypatch):
    monkeypatch.setattr(rooms_output, "LAST_WORDS_TIMEOUT", 0.01)
    writing = threading.Thread(target=send, args=(output, b"z" * 500_000))
    writing.start()
    writing.join(10)  # all of it is in our pipe or in that of the reader, who has not begun
    finishing = threading.Thread(target=output.finish, args=(Deadline(20.0),))
    finishing.start()
    finishing.join(0.2)
    assert finishing.is_alive()
    got = 0
    while got < 500_000:
        got += len(os.read(output.reading, 65536))
    finishing.join(10)
    assert not finishing.is_alive()


def test_a_silent_grandchild_and_a_dead_reader_are_not_waited_for(output, monkeypatch):
    monkeypatch.setattr(rooms_output, "LAST_WORDS_TIMEOUT", 0.01)
    streams = output.streams()
    output.finish(Deadline(60.0))  # nothing is written, and the pipes stay open
    os.write(streams[0], b"z" * 500_000)
    output.finish(Deadline(0.05))  # nobody reads
    for each in streams:
        os.close(each)
    got = 0
    while got < 500_000:
        got += len(os.read(output.reading, 65536))
