"""python3 -m tests.fuzz [--atheris] [--runs N] [--seed S] TARGET...: many inputs for one or more parsers.

With --atheris its mutations follow what has been reached; without it they are made by chance from corpus and words,
at ten times the rate. What fails is written to corpus/TARGET, where it stays.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 900  # bytes of an input


def mutated(chance: random.Random, seeds: list[bytes], words: list[bytes]) -> bytes:
    data = chance.choice(seeds)
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.randrange(1, 9))
        piece = chance.choice((chance.choice(words), bytes([chance.randrange(256)]), b"", data[at:to] * 2,
                               chance.choice(seeds)[:chance.randrange(60)]))
        data = (data[:at] + piece + data[to if chance.random() < 0.6 else at:])[:LONGEST]
    return data


def by_chance(name: str, runs: int, seed: int) -> None:
    from tests.fuzz.targets import TARGETS, WORDS

    target, chance = TARGETS[name], random.Random(f"{name}{seed}")
    seeds = [file.read_bytes() for file in sorted((CORPUS / name).iterdir())]
    began = time.monotonic()
    for _ in range(runs):
        data = mutated(chance, seeds, WORDS)
        try:
            target(data)
        except BaseException:
            file = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
            file.write_bytes(data)
            print(f"{name}: fails for {data!r}, kept in {file}", flush=True)
            raise
    print(f"{name}: {runs} inputs in {time.monotonic() - began:.0f} s", flush=True)


def by_coverage(name: str, runs: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["wrapper"]):
        from tests.fuzz.targets import TARGETS
    with tempfile.TemporaryDirectory() as found:  # what reached something new; only what fails is kept
        atheris.Setup([sys.argv[0], f"-runs={runs}", f"-max_len={LONGEST}", f"-artifact_prefix={CORPUS / name}/",
                       "-verbosity=0", found, str(CORPUS / name)], TARGETS[name])
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("targets", nargs="*")
    asked = parser.parse_args()
    names = asked.targets or sorted(folder.name for folder in CORPUS.iterdir())
    for name in names:
        if not asked.atheris:
            by_chance(name, asked.runs, asked.seed)
        elif len(names) == 1:
            by_coverage(name, asked.runs)  # which ends the process
        else:
            subprocess.run([sys.executable, "-m", "tests.fuzz", "--atheris", "--runs", str(asked.runs), name],
                           check=True, env={**os.environ})


main()
