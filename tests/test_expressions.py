"""Every regular expression of the product, with input made to hurt it: its time may grow only as the input does.

`re` holds the interpreter's lock while it matches, so one that backtracks stops every request at once.
"""

from __future__ import annotations

import ast
import importlib
import math
import re
import time
import warnings
from pathlib import Path

import pytest

from wrapper.sidecar.router import Route, Router

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_parse  # the one name that all versions know

PACKAGE = Path(__file__).resolve().parents[1] / "wrapper"
ANYWHERE = {"search", "finditer", "findall", "sub", "split"}  # methods that begin at every character
METHODS = ANYWHERE | {"match", "fullmatch"}
SPOILERS = "\0#!:\n/ a"
LENGTHS = (10, 20, 22, 24, 200, 500, 2_500, 10_000)
NOTICED = 0.02  # seconds of processor time: far over what 10 kB cost where it is linear
STEEP = 1.5  # the power with which the time grows: 1 is linear, 2 is quadratic
# Not reached by a client's bytes; the reason stands beside it.
INNER = {
    "sidecar/dashboard.py": "reads the page that stands beside it",
}


def expressions():
    """(where, flags and pattern, whether it is searched for anywhere) of every call of `re` in the product."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name, text = str(path.relative_to(PACKAGE)), path.read_text()
        if name in INNER or "import re\n" not in text:
            continue
        tree = ast.parse(text)
        module = importlib.import_module("wrapper." + name[:-3].replace("/", ".").replace(".__init__", ""))
        used = {(node.value.id, node.attr) for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
        titles = {node.value: node.targets[0].id for node in ast.walk(tree)
                  if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"re.compile", *(f"re.{m}" for m in METHODS)}:
                method = node.func.attr
                methods = {used_as for name_of, used_as in used if name_of == titles.get(node)} | {method}
                flags = [eval(ast.unparse(flag), vars(module)) for flag in node.args[1:2] if method == "compile"]
                pattern = eval(ast.unparse(node.args[0]), vars(module))
                yield pytest.param(re.compile(pattern, *flags), bool(methods & ANYWHERE),
                                   id=f"{name}:{node.lineno}")


def accepts(body, character):
    """Whether one turn of a loop takes this character."""
    try:
        return re.fullmatch(unparsed(body), character) is not None
    except (re.error, NotImplementedError):
        return False


def unparsed(items):
    """An expression again, of what is compared one character at a time."""
    if len(items) != 1:
        raise NotImplementedError
    kind, value = items[0]
    if str(kind) == "LITERAL":
        return re.escape(chr(value))
    if str(kind) == "NOT_LITERAL":
        return f"[^{re.escape(chr(value))}]"
    if str(kind) == "ANY":
        return "(?s:.)"
    if str(kind) == "SUBPATTERN":
        return unparsed(value[-1])
    if str(kind) == "IN":
        return "[" + "".join(member(*part) for part in value) + "]"
    raise NotImplementedError


def member(kind, value):
    if str(kind) == "NEGATE":
        return "^"
    if str(kind) == "LITERAL":
        return re.escape(chr(value))
    if str(kind) == "RANGE":
        return "-".join(re.escape(chr(end)) for end in value)
    return {"CATEGORY_DIGIT": r"\d", "CATEGORY_WORD": r"\w", "CATEGORY_SPACE": r"\s"}[str(value)]


def alphabet(items):
    """Characters that the expression names, and some besides."""
    found = set("a0 -./:#%\n\r")
    for kind, value in walk(items):
        if str(kind) in ("LITERAL", "NOT_LITERAL"):
            found.add(chr(value))
        elif str(kind) == "RANGE":
            found.add(chr(value[0]))
    return sorted(found)


def walk(items):
    for item in items:
        if isinstance(item, tuple):
            if len(item) == 2 and not isinstance(item[0], (list, tuple)):
                yield item
            yield from walk(part for part in item if isinstance(part, (list, tuple, sre_parse.SubPattern)))
        elif isinstance(item, (list, sre_parse.SubPattern)):
            yield from walk(item)


def shortest(items, letters):
    """A text that the items take, as short as can be."""
    text = ""
    for kind, value in items:
        name = str(kind)
        if name in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            text += next((letter for letter in letters if accepts([(kind, value)], letter)), "")
        elif name == "SUBPATTERN":
            text += shortest(value[-1], letters)
        elif name == "BRANCH":
            text += shortest(value[1][0], letters)
        elif name.endswith("REPEAT"):
            text += shortest(value[2], letters) * value[0]
    return text


def loops(items, letters, before=""):
    """(text before it, text of one turn) of everything that may be repeated without end."""
    for index, (kind, value) in enumerate(items):
        start, name = before + shortest(items[:index], letters), str(kind)
        if name.endswith("REPEAT"):
            _low, high, body = value
            if int(high) > 1000:
                turns = [letter for letter in letters if accepts(body, letter)]
                yield from ((start, turn) for turn in turns or [shortest(body, letters)])
            yield from loops(body, letters, start)
        elif name == "SUBPATTERN":
            yield from loops(value[-1], letters, start)
        elif name == "BRANCH":
            for branch in value[1]:
                yield from loops(branch, letters, start)


def hostile(pattern):
    """Functions from a length to an input that gets far and fails late."""
    text = pattern.pattern
    items = sre_parse.parse(text if isinstance(text, str) else text.decode("latin-1"), pattern.flags & ~re.UNICODE)
    letters = alphabet(items)
    for before, turn in sorted(set(loops(list(items), letters))):
        for spoiler in SPOILERS:
            yield lambda n, parts=(before, turn, spoiler): parts[0] + parts[1] * n + parts[2]
            yield lambda n, parts=(before, turn, spoiler): (parts[0] + parts[1] + parts[2]) * (n // 3)


def cost(work, turns):
    """Processor seconds of this thread alone, the least of some turns: what others do meanwhile does not count."""
    def once():
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return min(once() for _ in range(turns))


def is_steep(make, match):
    """Whether the cost rises faster than the input; only what costs something is looked at more than once."""
    for shorter, longer in zip(LENGTHS, LENGTHS[1:]):
        short, long = make(shorter), make(longer)
        if cost(lambda: match(long), 1) <= NOTICED:  # noqa: B023
            continue
        dear = cost(lambda: match(long), 3)  # noqa: B023
        if dear > NOTICED:  # else the first look met a collection of garbage, or a machine that stood still
            ratio = dear / max(cost(lambda: match(short), 3), 1e-7)  # noqa: B023
            return math.log(ratio) / math.log(longer / shorter) > STEEP
    return False


def matches(pattern, is_searched):
    """How the product applies it."""
    encoded = (lambda text: text) if isinstance(pattern.pattern, str) else (lambda text: text.encode("latin-1"))
    yield lambda text: pattern.fullmatch(encoded(text))
    if is_searched:
        yield lambda text: list(pattern.finditer(encoded(text)))


@pytest.mark.parametrize(("pattern", "is_searched"), [*expressions()])
def test_an_expression_takes_time_as_its_input_grows(pattern, is_searched):
    for match in matches(pattern, is_searched):
        for make in hostile(pattern):
            assert not is_steep(make, match), (pattern.pattern, make(3))


def test_the_judge_knows_a_steep_one():
    for steep in (r"([^/]+)\.([^/]+)\.([^/]+)", r"(a+)+b", r"([^/?#]+)([^#]*)"):
        pattern = re.compile(steep)
        assert any(is_steep(make, pattern.fullmatch) for make in hostile(pattern)), steep


@pytest.mark.parametrize("route", ["/hook/{a}.{b}.{c}", "/hook/{a}{b}{c}", "/{a}-{b}/{c}--{d}/x{e}x"])
def test_a_route_with_many_parameters_takes_time_as_the_path_grows(route):
    """`/hook/{a}.{b}.{c}` and a path of 1,200 bytes stopped the whole process for seconds."""
    router = Router()
    router.add(Route("GET", route, lambda request: None))
    for turn in (".", "-", "--", "x", "/", "a"):
        for spoiler in ("", "/", "."):
            for before in ("/hook/", "/a-b/"):
                make = lambda n, parts=(before, turn, spoiler): parts[0] + parts[1] * n + parts[2]  # noqa: E731
                assert not is_steep(make, lambda path: router.find("GET", path))
