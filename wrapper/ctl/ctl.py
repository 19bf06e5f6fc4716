"""`ctl`: steer the running wrapper and look at it, from any process that can open its control socket."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from wrapper import threads
from wrapper.ctl import render
from wrapper.ctl.client import Client, Refused
from wrapper.ctl.paths import NoWrapper, candidates, places
from wrapper.ctl.render import Paint
from wrapper.settings import values
from wrapper.text import one_line, printable, program

ODD = (LookupError, TypeError, ValueError, AttributeError)  # JSON, but not as the wrapper writes it
DONE, FAILED, INTERRUPTED = 0, 1, 130  # exit statuses; 128 + SIGINT as a shell would say
STEP_TIMEOUT = 10.0  # seconds the wrapper may take to say how things stand
CATCH_UP_TIMEOUT = 2.0  # seconds for the last states to be shown after an action ended
CLEAR = "\x1b[H\x1b[J"  # cursor home, then erase to the end (ECMA-48): no flicker
UNSAID = dict.fromkeys(("control", "json", "service", "reason", "span"))  # also of verbs that have no such option
ACTIONS = {"start": "start the service", "stop": "stop it, and answer 503 until it is started",
           "restart": "stop and start it while requests wait",
           "reload": "make it read its configuration again, or restart it where it cannot"}


def main(argv: Sequence[str]) -> int:
    """Run `ctl` with the words behind it; returns the exit status."""
    _plug_streams()
    try:
        options = _parser().parse_args(argv, argparse.Namespace(**UNSAID))
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        return int(options.run(options))
    except (NoWrapper, Refused) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our lines has left, as `head` does; the interpreter must not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:  # a full disk
        return _fail(f"cannot write: {error.strerror or error}")
    except ODD as error:
        return _fail(f"cannot read the answer, it may be of another version: {type(error).__name__}: {error}")


def _plug_streams() -> None:
    """A stream that came closed, or a terminal of few characters, is no reason to fail."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it came closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # until this process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _fail(message: str) -> int:
    _note(message)
    return FAILED


def _note(message: str) -> None:
    with contextlib.suppress(OSError):  # it is not read, or the disk is full: the status says it too
        print(f"wrapper ctl: {one_line(message)}", file=sys.stderr)


# The command line

def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    everywhere.add_argument("--control", metavar="PATH", help="the control socket; default $WRAPPER_CONTROL, else the "
                            f"one that a wrapper listens at of {', '.join(candidates())}")
    everywhere.add_argument("--json", action="store_true", help="for machines: JSON on stdout")
    top = argparse.ArgumentParser(prog=f"{program()} ctl", parents=[everywhere])
    _add_verbs(top.add_subparsers(dest="action", metavar="VERB", required=True), everywhere)
    return top


def _add_verbs(verbs: Any, everywhere: argparse.ArgumentParser) -> None:
    of_service = argparse.ArgumentParser(add_help=False)
    of_service.add_argument("--service", metavar="NAME", help="a helper instead of the main service")

    def verb(name: str, run: Any, meaning: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = verbs.add_parser(
            name, parents=[everywhere, *parents], help=meaning, description=meaning[0].upper() + meaning[1:] + ".")
        parser.set_defaults(run=run)
        return parser

    verb("status", _status, "how everything stands").add_argument(
        "--watch", action="store_true", help="draw it again every second until Ctrl-C")
    for name, meaning in ACTIONS.items():
        action = verb(name, _act, meaning, of_service)
        action.add_argument("--no-wait", action="store_true", help="only ask for it")
        action.add_argument("--reason", metavar="TEXT", help="why; shown wherever the state is")
    pause = verb("pause", _steer, "hold every request without touching the service, for 30s at most", of_service)
    pause.add_argument("--for", dest="span", metavar="D", help="for how long; default and most 30s")
    pause.add_argument("--reason", metavar="TEXT", help="why; those that wait too long are told")
    verb("resume", _steer, "let them through again", of_service)
    verb("signal", _signal, "pass a signal on to the service", of_service).add_argument("name", help="HUP, USR1, ...")
    verb("problems", _problems, "what is wrong now")
    config = verb("config", _config, "where configuration comes from and how it went; its past", of_service)
    config.add_argument("--look", action="store_true", help="look for a change now")
    config.add_argument("what", nargs="?", choices=("history", "diff", "rollback"), help="the versions that were in "
                        "force; what changed since version N; bring version N into force again")
    config.add_argument("number", nargs="?", type=_count, metavar="N")
    logs = verb("logs", _logs, "what the service printed last (needs --capture-output)", of_service)
    logs.add_argument("--lines", "-n", type=_count, default=100, metavar="N", help="default 100")
    logs.add_argument("--follow", "-f", action="store_true", help="go on as more comes, until Ctrl-C")
    verb("events", _events, "what happened").add_argument(
        "--follow", "-f", action="store_true", help="go on as more happens, until Ctrl-C")


def _count(text: str) -> int:
    try:
        return values.count(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _client(options: argparse.Namespace) -> Client:
    return Client(places(options.control), STEP_TIMEOUT)


def _patient_client(options: argparse.Namespace) -> Client:
    """For what takes as long as the service does; that the wrapper answers at all has been seen. Raises: NoWrapper."""
    _client(options).ask("healthz")
    return Client(places(options.control))


def _query(options: argparse.Namespace, **more: str | None) -> dict[str, str]:
    """The parameters of a request: what the options say, and `more`; what was not said has none."""
    said = {"service": options.service, "reason": options.reason, **more}
    return {name: value for name, value in said.items() if value is not None}


def _paint() -> Paint:
    return Paint(sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def _show(lines: Sequence[str]) -> None:
    """Print lines; of what others wrote nothing reaches the terminal but text."""
    print("\n".join(map(_paint().fit, lines)), flush=True)


def _tell_peer(options: argparse.Namespace, client: Client) -> None:
    """Say whom it was that something was asked of, where the socket was not named."""
    if not options.control and not options.json:
        _note(f"to the wrapper with {client.peer}")


def _show_json(document: Any) -> None:
    print(json.dumps(document), flush=True)


def _report(options: argparse.Namespace, document: Any, lines: Sequence[str]) -> int:
    """Show what the wrapper said: `document` to machines, `lines` to people."""
    _show_json(document) if options.json else _show(lines)
    return DONE


# To look at

def _status(options: argparse.Namespace) -> int:
    client = _client(options)
    if not options.watch:
        _show(_status_lines(client, options))
        return DONE
    while True:
        try:
            lines = _status_lines(client, options)
        except NoWrapper as error:
            lines = [str(error), "", "looking again every second"]
        if sys.stdout.isatty() and not options.json:
            columns, rows = shutil.get_terminal_size()
            lines = render.fitting(lines, columns, rows - 1)  # the last row is the cursor's
            sys.stdout.write(CLEAR)
        _show(lines)
        time.sleep(1.0)  # the pace of --watch


def _status_lines(client: Client, options: argparse.Namespace) -> list[str]:
    status = client.ask("api/status")
    if options.json:
        return [json.dumps(status)]
    problems, config = client.ask("api/problems", list), client.ask("api/config", list)
    return render.overview(status, problems, config, _paint(), time.time(), client.peer)


def _problems(options: argparse.Namespace) -> int:
    problems = _client(options).ask("api/problems", list)
    return _report(options, problems, render.problem_lines(problems, _paint(), time.time()) or ["no problems"])


def _config(options: argparse.Namespace) -> int:
    if options.what == "history":
        versions = _client(options).ask("api/config/history", list, query=_query(options))
        return _report(options, versions, render.version_lines(versions) or ["no version has been applied"])
    if options.what is not None:
        return _config_version(options)
    config = _client(options).ask("api/config", list, method="POST" if options.look else "GET")
    lines = render.config_lines(config, _paint(), time.time()) or ["no configuration is watched"]
    return _report(options, config, lines)


def _config_version(options: argparse.Namespace) -> int:
    if options.number is None:
        return _fail(f"config {options.what}: which version? `config history` lists them")
    version = str(options.number)
    if options.what == "diff":
        found = _client(options).ask("api/config/diff", query=_query(options, version=version))
        return _report(options, found, render.diff_lines(found, _paint()) or ["no difference"])
    done = _order(options, "config/rollback", is_long=True, version=version)
    return _report(options, done, [f"version {version} is in force again"])


def _logs(options: argparse.Namespace) -> int:
    query = _query(options, lines=str(options.lines))
    if not options.follow:
        text = _client(options).ask("api/logs", str, query=query)
        _show_json([line.rstrip("\r") for line in text.split("\n")[:-1]]) if options.json else _write(text)
        return DONE
    # A character may come in two pieces.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in _client(options).output(query, options.json):
        text = decoder.decode(piece)
        _show_json(text.rstrip("\r\n")) if options.json else _write(text)
    raise NoWrapper("the wrapper went away")


def _write(text: str) -> None:
    sys.stdout.write(printable(text))
    sys.stdout.flush()


def _events(options: argparse.Namespace) -> int:
    last = _client(options).ask("api/status").get("last_event", 0)
    if not options.follow and not last:
        return DONE
    paint = _paint()
    for event in _client(options).events():
        _show_json(event) if options.json else _show([render.event_line(event, paint)])
        if not options.follow and event["id"] >= last:
            return DONE
    raise NoWrapper("the wrapper went away")


# To do

def _steer(options: argparse.Namespace) -> int:
    """Carry out what is done at once, and show the status."""
    return _tell_end(options, _order(options, options.action, **{"for": options.span}))


def _signal(options: argparse.Namespace) -> int:
    status = _order(options, options.action, name=options.name)
    return _report(options, status, [f"sent {options.name.upper()} to pid {status.get('pid')}"])


def _order(options: argparse.Namespace, what: str, is_long: bool = False, **more: str | None) -> dict[str, Any]:
    """Have something done, and say by which wrapper; returns its response."""
    client = _patient_client(options) if is_long else _client(options)
    done: dict[str, Any] = client.ask(f"api/{what}", method="POST", query=_query(options, **more))
    _tell_peer(options, client)
    return done


def _act(options: argparse.Namespace) -> int:
    """Ask, show the states as they pass, and say how it ended."""
    if options.no_wait:
        return _steer(options)
    client, patient = _client(options), _patient_client(options)
    passed = None if options.json else _show_passing(client, options.service or "service")
    _tell_peer(options, client)
    fault = None
    try:
        status = patient.ask(f"api/{options.action}", method="POST", query=_query(options, wait="1"))
    except Refused as error:
        if not isinstance(error.document, dict) or "state" not in error.document:
            raise
        status, fault = error.document, str(error)
    except KeyboardInterrupt:
        _note(f"no longer waiting; the {options.action} goes on")
        raise
    if passed is not None:
        _catch_up(passed, status.get("last_event", 0))
    return _tell_end(options, status, fault)


def _tell_end(options: argparse.Namespace, status: dict[str, Any], fault: str | None = None) -> int:
    if fault is None:
        pid = f", pid {status['pid']}" if status.get("pid") else ""
        paused = f", paused for {status['paused_seconds']:g} s" if "paused_seconds" in status else ""
        return _report(options, status, [f"{_paint().state(status['state'])}{pid}{paused}"])
    if options.json:
        _show_json(status)
    return _fail(f"cannot {options.action}: {fault}")


def _show_passing(client: Client, service: str) -> SimpleQueue[float]:
    """Print the events of a service from now on, in a thread; the id of each event, of others too, comes out here."""
    passed: SimpleQueue[float] = SimpleQueue()
    last = int(client.ask("api/status").get("last_event", 0))
    passed.put(last)
    threads.start("events", _print_passing, client.events(last), service, passed)
    return passed


def _print_passing(events: Iterator[dict[str, Any]], service: str, passed: SimpleQueue[float]) -> None:
    paint = _paint()
    try:
        for event in events:
            if event.get("service") == service and event["kind"] in ("state", "exit", "next"):
                _show([render.event_line(event, paint, service)])
            passed.put(event["id"])
    except (NoWrapper, OSError, *ODD):
        pass  # the thread that waits for the action itself hears of it
    finally:
        passed.put(math.inf)  # none is waited for any more


def _catch_up(passed: SimpleQueue[float], number: int) -> None:
    """Wait until event `number` was printed, for a moment at most."""
    with contextlib.suppress(Empty):
        while passed.get(timeout=CATCH_UP_TIMEOUT) < number:
            pass
