"""argv in, exit status out: run, ctl, health, check, --help, --version."""

from __future__ import annotations

import io
import os
import sys

from wrapper.errors import BadSettings, CannotMake, CannotStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from wrapper.signals import Signals

USAGE = """usage: python3 -m wrapper [OPTION]... [--] COMMAND [ARG]...  run COMMAND behind the wrapper
       python3 -m wrapper ctl [--control PATH] [--json] VERB   steer the running wrapper; ctl --help lists the verbs
       python3 -m wrapper health [--control PATH] [--ready]    exit 0 where all is well, 1 where not
       python3 -m wrapper check [OPTION]... [--] COMMAND       print what is set, or --all, and every fault; exit 0 or 2
       python3 -m wrapper bundle FOLDER [MODULE]...            Python and the wrapper in one folder, for any image
       python3 -m wrapper bundle FILE.pyz                      the wrapper in one file, for any Python
       python3 -m wrapper dockerfile [INSPECT.json]            a Dockerfile around what `docker inspect` shows
       python3 -m wrapper --version | --help
"""

VERBS = ("check", "bundle", "dockerfile")
IMAGE_FILES = frozenset({"wrapper", "entry.sh", "__main__.py", "__pycache__"})  # of the folder our Dockerfile makes
FLUSH_TIMEOUT = 0.5  # seconds
COERCED = ("C.UTF-8", "C.utf8", "UTF-8")  # what PEP 538 sets LC_CTYPE to


def main(argv: Sequence[str]) -> int:
    """Run one verb; the result is the exit status."""
    verb = argv[0] if argv else ""
    if verb == "--version":
        from wrapper import __version__  # start-up: a run does without it

        return say([f"wrapper {__version__}"])
    if verb == "health":
        from wrapper.ctl import health  # start-up: a run does without it

        return health.main(argv[1:])
    if verb == "ctl":
        from wrapper.ctl import ctl  # start-up: a run does without it

        return ctl.main(argv[1:])
    if _wants_help(argv[1:] if verb in VERBS else argv):
        return say(help_lines())
    if verb == "check":
        return check(argv[1:])
    if verb in ("bundle", "dockerfile"):
        return make(verb, argv[1:])
    from wrapper import signals  # first of all, so that a run is deaf for as short a time as can be

    signals.plug_closed_stdio()
    return run(argv, signals.Signals())


def _wants_help(argv: Sequence[str]) -> bool:
    if "--help" not in argv and "-h" not in argv:
        return False
    from wrapper.settings import settings  # start-up: a run does without it

    return settings.asks_for_help(argv)


def say(lines: Iterable[str], status: int = 0) -> int:
    """Print lines where stdout is still read; returns `status`."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):  # None: it came closed
            sys.stdout.reconfigure(errors="backslashreplace")  # whatever a value holds
        print(*lines, sep="\n", flush=True)
    except OSError:
        pass  # its reader has left, or the disk is full
    return status


def run(argv: Sequence[str], signals: Signals) -> int:
    from wrapper.entrypoint import Entrypoint  # start-up: not before the signals are caught
    from wrapper.log import log
    from wrapper.settings import settings

    try:
        chosen = settings.read(argv, os.environ, unreadable)
        for fault in settings.strangers(os.environ):
            log.warning(fault)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(line_buffering=True)  # what sidecar code prints is seen at once, in a pipe too
        return Entrypoint(chosen, signals, inherited(os.environ)).run()
    except BadSettings as error:
        return _complain_in_time(error.faults, error.exit_status)
    except CannotStart as error:
        return _complain_in_time([str(error)], error.exit_status)
    finally:
        _let_go_of_stdout()


def _complain_in_time(faults: Sequence[str], status: int) -> int:
    """As `complain`; a pipe that has no reader does not hold the end up."""
    from wrapper import threads  # start-up: only the road to a fault pays for it

    try:
        threads.BoundedCall("stderr", complain, (faults, status), FLUSH_TIMEOUT)
    except threads.NoThread:
        complain(faults, status)
    return status


def _let_go_of_stdout() -> None:
    """Flush what sidecar code has printed, where that goes at once.

    The code may have closed or replaced the stream, and the pipe may have no reader: neither holds the end up.
    """
    from wrapper import threads  # start-up: not before the service runs

    printed, sys.stdout = sys.stdout, io.StringIO()
    try:
        threads.BoundedCall("stdout", lambda: print(end="", file=printed, flush=True), (), FLUSH_TIMEOUT)
    except threads.NoThread:
        pass  # what was printed may be lost then


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What the service's environment is made of: ours as it came, without what is for the wrapper alone.

    A copy, because sidecar code may change ours. Where it names no locale, Python has put LC_CTYPE there (PEP 538).
    """
    from wrapper.settings import settings  # start-up: not before the signals are caught

    ours = {row.variable for row in settings.table()}  # a token among them
    found = {name: value for name, value in environment.items() if name not in ours}
    if "PYTHONPATH" in found:
        found.update(_without_home(found.pop("PYTHONPATH")))
    if found.get("LC_CTYPE") not in COERCED:
        return found
    try:
        with open("/proc/self/environ", "rb") as file:  # as exec(2) left it
            first = dict(variable.partition(b"=")[::2] for variable in file.read().split(b"\0"))
    except OSError:
        return found
    del found["LC_CTYPE"]
    return {**found, **({"LC_CTYPE": os.fsdecode(first[b"LC_CTYPE"])} if b"LC_CTYPE" in first else {})}


def _without_home(path: str) -> dict[str, str]:
    """PYTHONPATH without the folder that our Dockerfile put there: one that holds the wrapper and nothing else."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        is_shared = not IMAGE_FILES.issuperset(os.listdir(home))
    except OSError:  # not to be listed, or an archive
        is_shared = True
    entries = path.split(":")
    if is_shared or home not in entries:
        return {"PYTHONPATH": path}
    entries.remove(home)
    return {"PYTHONPATH": ":".join(entries)} if entries else {}


def unreadable(chosen: Mapping[str, Any]) -> Iterator[str]:
    """Faults of files that a run needs from the beginning. From here on faults are said as the log is set."""
    from wrapper.log import log  # start-up: not before the signals are caught

    log.configure(chosen["log_level"] or "info", chosen["log_format"] or "text")
    if chosen["tls_cert"] is not None and chosen["tls_key"] is not None:
        from wrapper.front.secure import Certificate  # start-up: ssl is loaded only where it is needed

        try:
            Certificate(chosen["tls_cert"], chosen["tls_key"])
        except CannotStart as error:
            yield str(error)
    if chosen["error_page"] is not None:
        from wrapper.front.reply import ErrorPage  # start-up: as above

        try:
            ErrorPage(chosen["error_page"])
        except CannotStart as error:
            yield str(error)
    source, target = chosen["config_source"] or "", chosen["config_file"]
    source = source.partition("file://")[2] or source
    if target and os.path.isdir(source) and not (chosen["config_select"] or chosen["config_template"]):
        inside = os.path.relpath(os.path.realpath(target), os.path.realpath(source))
        if not target.endswith("/") and not os.path.isdir(target):
            yield (f"--config-file={target}: --config-source is a folder, so this must be one too: end it with /, or "
                   "name one of the source's files with --config-select")
        elif inside == "." or not any(step.startswith(".") for step in inside.split("/")):
            yield (f"--config-file={target}: lies in --config-source={source}, and would be read again as a part of "
                   "it; name a folder beside it")


def make(verb: str, words: Sequence[str]) -> int:
    """Make what an image needs: a bundle, a program in one file, or a Dockerfile."""
    try:
        if verb == "dockerfile":
            from wrapper.image import dockerfile  # start-up: a run does without it

            return say([dockerfile.of(words)])
        from wrapper.image import bundle  # start-up: as above

        bundle.make(words)
        return 0
    except ImportError:
        fault = "left out of this wrapper, which was made for an image; do it in a checkout"
    except OSError as error:
        fault = (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))
    except CannotMake as error:
        fault = str(error)
    return complain([f"{verb}: {fault}"], CannotMake.exit_status)


def complain(faults: Iterable[str], status: int) -> int:
    """One line each, on stderr, whatever a value holds; returns `status`."""
    from wrapper.log import log  # start-up: only the road to a fault pays for it
    from wrapper.text import one_line

    try:
        for fault in faults:
            if log.as_json:
                log.error(fault)
            else:
                os.write(2, f"wrapper: {one_line(fault)}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # it came closed, or its reader has left
    return status


def check(argv: Sequence[str]) -> int:
    """Print what was set, with `--all` every setting, each with its value and origin; and every fault of a run."""
    from wrapper import preflight  # start-up: not before a run's signals are caught
    from wrapper.settings import settings

    options = argv[:argv.index("--")] if "--" in argv else argv[:1]
    wants_all = "--all" in options
    if wants_all:
        at = argv.index("--all")
        argv = [*argv[:at], *argv[at + 1:]]
    try:
        chosen = settings.read(argv, os.environ, unreadable)
    except BadSettings as error:
        return complain(error.faults, error.exit_status)
    faults = list(preflight.faults(chosen))
    status = complain(faults, BadSettings.exit_status if faults else 0)
    warnings = (*settings.strangers(os.environ), *preflight.warnings(chosen))
    lines = [*preflight.setting_lines(chosen, wants_all), *(f"warning: {warning}" for warning in warnings)]
    return say(lines, status)


def help_lines() -> list[str]:
    import textwrap  # start-up: a run does without it

    from wrapper import text  # start-up: not before a run's signals are caught
    from wrapper.settings import settings

    lines = [USAGE.replace("python3 -m wrapper", text.program()),
             "Every option is also a variable: --stop-timeout is WRAPPER_STOP_TIMEOUT.\n"
             "Flag beats variable beats default.\nDurations: 500ms, 10s, 2m or plain seconds.\n"
             "Sizes: 64KiB, 1MiB or plain bytes.\n"]
    for row in settings.table():
        lines.append(f"  {row.flag} {row.unit}".rstrip())
        note = row.meaning.replace("`", "") + (f" (default {row.default})" if row.default and not row.is_switch else "")
        lines.extend(textwrap.wrap(note, 100, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return lines
