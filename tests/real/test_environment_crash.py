"""Thirty times SIGKILL while files and variables change together all the time; it takes a minute and a half."""

from __future__ import annotations

import json
import random
import threading
import time

import pytest

from tests.config.test_configuration import kill_session
from tests.config.test_environment import Place, shown

pytestmark = pytest.mark.real


def test_killed_at_any_moment_files_and_variables_are_of_one_version(tmp_path):
    place, chance, stop, quiet = Place(tmp_path), random.Random(30), threading.Event(), threading.Lock()
    options = ("--config-file", str(place.file), "--config-wait", "0s", "--config-interval", "5ms")

    def change():
        number = 0
        while not stop.wait(0.05):
            number += 1
            with quiet:
                place.change(A=str(number))

    changer = threading.Thread(target=change)
    changer.start()
    seen = set()
    for _ in range(30):
        with place.wrapper(*options, wait=False, start_new_session=True) as wrapper:
            time.sleep(chance.uniform(0.4, 2.0))  # the random moment itself
            wrapper.process.kill()
            wrapper.process.wait()
            kill_session(wrapper.process.pid)
        with quiet:
            place.source.unlink()
            with place.wrapper(*options) as wrapper:
                in_file = json.loads(place.file.read_text()) if place.file.exists() else {}
                assert shown(wrapper) == in_file
            seen.add(json.dumps(in_file))
            assert list(tmp_path.rglob(".*.wrapper-*")) == []
            place.change(A="again")
    stop.set()
    changer.join()
    assert len(seen) > 10, "changes came through in between"
