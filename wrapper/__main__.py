"""The image's entrypoint: `python3 -m wrapper`, or `python3 /opt/wrapper/__main__.py`.

Started as a file it is safe from the image: for `-m` Python looks into the working folder first, and runs a wrapper.py
or a types.py that lies there. Written so that Pythons that are too old can read it and say so.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn  # noqa: F401  in a comment that is a type

OLDEST = (3, 9)  # of CPython

if __name__ == "__main__" and sys.version_info < OLDEST:
    sys.stderr.write("wrapper: needs Python 3.9 or newer; " + sys.executable + " is " + sys.version.split()[0] + "\n")
    sys.exit(2)


def home():
    # type: () -> str
    """The folder that this package lies in; a Dockerfile puts a copy of this file beside the package."""
    here = os.path.dirname(os.path.abspath(__file__))
    is_inside = __package__ or os.path.exists(os.path.join(here, "__init__.py"))
    return os.path.dirname(here) if is_inside else here


def settled(path):
    # type: (list[str]) -> list[str]
    """`sys.path` with the standard library before what PYTHONPATH names, and that before what is installed.

    A queue.py that the application has must not stand in for the library's.
    """
    names = [os.path.basename(entry) for entry in path]
    # Named by what os.py lies in: python3.13, and python3.13t without the lock.
    zipped = os.path.basename(os.path.dirname(os.__file__)).replace(".", "") + ".zip"
    # The first entry of the library's own, whether there is such a file or not; lib-dynload is the last.
    first = names.index(zipped) if zipped in names else 0
    last = names.index("lib-dynload") if "lib-dynload" in names else first - 1
    return path[first:last + 1] + path[:first] + path[last + 1:]


def late():
    # type: () -> list[str]
    """Take away what Python put first; what is returned is looked into last, for sidecars named by their module."""
    if sys.flags.isolated or getattr(sys.flags, "safe_path", False):
        return [home()]
    first = sys.path.pop(0)
    if __package__:  # -m
        return [first]
    try:
        return [home(), os.getcwd()]
    except OSError:  # it was deleted
        return [home()]


def start():
    # type: () -> NoReturn
    """The `wrapper` program of an installation, and what every other way to call it comes to."""
    last = late()
    sys.path.insert(0, home())
    import wrapper  # noqa: F401  it imports nothing else; from here on it is sure to be ours

    sys.path[:] = settled(sys.path[1:]) + last
    from wrapper.cli import main  # not before the library is sure to be Python's

    status = main(sys.argv[1:])
    try:
        if sys.stdout is not None:  # None: it came closed
            sys.stdout.flush()
    except OSError:
        pass  # its reader has left
    # Not sys.exit: a thread of sidecar code that is still busy must not keep the container from ending.
    os._exit(status)


if __name__ == "__main__":
    start()
