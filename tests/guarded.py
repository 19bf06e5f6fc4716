"""`python3 -m tests.guarded WORDS`: the wrapper, which says on stderr what blocks its loop."""

import os
import runpy
import sys

# `-m` puts the working folder first, where a test may have put a socket.py for the wrapper to find.
working_folder, sys.path[0] = sys.path[0], os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
from tests import inner_ports  # noqa: E402
from tests.guard import guard  # noqa: E402

sys.path[0] = working_folder
guard.install(lambda offence: os.write(2, b"tests.guard: this blocked a loop: %b\n" % offence.encode()))
inner_ports.install()
sys.argv[0] = "wrapper"
runpy.run_module("wrapper", run_name="__main__", alter_sys=True)
