"""`python3 -m tests.guarded WORDS`: the wrapper, which says on stderr what blocks its loop."""

import os
import runpy
import sys

from tests import inner_ports
from tests.guard import guard

guard.install(lambda offence: os.write(2, b"tests.guard: this blocked a loop: %b\n" % offence.encode()))
inner_ports.install()
sys.argv[0] = "wrapper"
runpy.run_module("wrapper", run_name="__main__", alter_sys=True)
