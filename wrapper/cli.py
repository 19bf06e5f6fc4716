"""argv in, exit status out: run, ctl, health, check, --help, --version."""

from __future__ import annotations

import os
import sys

from wrapper.errors import BadSettings, CannotStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from wrapper.settings import Settings
    from wrapper.signals import Signals

USAGE = """usage: python3 -m wrapper [OPTION]... -- COMMAND [ARG]...   run COMMAND behind the wrapper
       python3 -m wrapper ctl [--control PATH] [--json] VERB   steer the running wrapper; ctl --help lists the verbs
       python3 -m wrapper health [--control PATH] [--ready]    exit 0 where all is well, 1 where not
       python3 -m wrapper check [OPTION]... -- COMMAND         print every setting and every fault; exit 0 or 2
       python3 -m wrapper --version | --help
"""


def main(argv: Sequence[str]) -> int:
    """Run one verb; the result is the exit status."""
    verb = argv[0] if argv else ""
    if verb in ("--help", "-h"):
        print(help_text(), end="")
        return 0
    if verb == "--version":
        from wrapper import __version__  # start-up: a run does without it

        print(f"wrapper {__version__}")
        return 0
    if verb == "check":
        return check(argv[1:])
    if verb in ("ctl", "health"):
        from wrapper import ctl  # start-up: a run does without it

        return ctl.main(argv)
    from wrapper import signals  # first of all, so that a run is deaf for as short a time as can be

    signals.plug_closed_stdio()
    return run(argv, signals.Signals())


def run(argv: Sequence[str], signals: Signals) -> int:
    from wrapper import entrypoint, settings  # start-up: not before the signals are caught

    try:
        chosen = settings.read(argv, os.environ)
        _warn_of_strangers()
        return entrypoint.run(chosen, signals, os.environ)
    except BadSettings as error:
        return _refuse(error)
    except CannotStart as error:
        print(f"wrapper: {error}", file=sys.stderr)
        return error.exit_status


def _refuse(error: BadSettings) -> int:
    for fault in error.faults:
        print(f"wrapper: {fault}", file=sys.stderr)
    return error.exit_status


def _warn_of_strangers() -> None:
    from wrapper import settings  # start-up: not before the signals are caught
    from wrapper.log import log

    for name in settings.strangers(os.environ):
        log.warning(f"{name} is set, but there is no such setting")


def check(argv: Sequence[str]) -> int:
    """Print every setting with its value and origin, and every fault."""
    from wrapper import settings  # start-up: not before a run's signals are caught

    try:
        chosen = settings.read(argv, os.environ)
    except BadSettings as error:
        return _refuse(error)
    for line in setting_lines(chosen):
        print(line)
    for name in settings.strangers(os.environ):
        print(f"warning: {name} is set, but there is no such setting")
    return 0


def setting_lines(chosen: Settings) -> list[str]:
    """`--name = value  (origin)`, one a line, secrets masked."""
    from wrapper import settings  # start-up: not before a run's signals are caught

    rows = settings.table()
    width = max(len(row.flag) for row in rows)
    lines = [f"{row.flag:{width}} = {row.show(getattr(chosen, row.name))}  ({chosen.origins[row.name]})"
             for row in rows]
    return [*lines, f"{'COMMAND':{width}} = {' '.join(chosen.command)}"]


def help_text() -> str:
    from wrapper import settings  # start-up: not before a run's signals are caught

    import textwrap  # start-up: a run does without it

    lines = [USAGE, "Every option is also a variable: --stop-timeout is WRAPPER_STOP_TIMEOUT.\n"
             "Flag beats variable beats default.\nDurations: 500ms, 10s, 2m or plain seconds.\n"
             "Sizes: 64KiB, 1MiB or plain bytes.\n"]
    for row in settings.table():
        lines.append(f"  {row.flag} {row.unit}".rstrip())
        note = row.meaning.replace("`", "") + (f" (default {row.default})" if row.default and not row.is_switch else "")
        lines.extend(textwrap.wrap(note, 100, initial_indent=" " * 8, subsequent_indent=" " * 8))
    return "\n".join(lines) + "\n"
