"""The rules of the house, held to the code: who may import whom, how long things are, what stands where.

The layers are the picture in .github/CONTRIBUTING.md, read from top to bottom.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import wrapper
from wrapper.settings import settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "wrapper"
README = ROOT / "README.md"
MAX_MODULE, MAX_FUNCTION = 450, 50  # lines
TOP_LEVEL = {"wrapper", "tests", "Dockerfile", "entry.sh", "setup.py", "LICENSE", "README.md"}

# Arrows point down: a room imports from its own layer or from lower ones. A folder is one room.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("entrypoint", "preflight", "image"),
    ("presets", "testing"),
    ("__init__",),  # the names that sidecar authors import
    ("sidecar",),
    ("config",),
    ("front",),
    ("proxy", "service"),
    ("gate", "http1"),
    ("loop",),
    ("problems", "events", "cause", "ctl"),
    ("settings", "sockets", "signals", "log", "text", "deadline", "errors", "threads", "poll"),
)
BOTTOM = "wrapper.errors"  # what `import wrapper` counts as where only the version is wanted: that costs nothing
PURE = ("text", "http1.request", "http1.response", "http1.chunked", "proxy.headers", "ctl.render", "settings.settings",
        "errors", "deadline")
IMPURE = {"socket", "socketserver", "select", "selectors", "ssl", "subprocess", "multiprocessing", "asyncio", "http",
          "urllib", "threading"}
# What costs milliseconds, and is not needed until the service has been spawned.
SLOW = {"argparse", "asyncio", "dataclasses", "email", "http.client", "http.server", "inspect", "ipaddress", "json",
        "logging", "shlex", "socketserver", "ssl", "tempfile", "typing", "urllib.parse", "urllib.request"}


@functools.cache
def modules():
    return sorted(PACKAGE.rglob("*.py"))


def title(path):
    return str(path.relative_to(ROOT))


def dotted(path):
    """`wrapper/proxy/headers.py` is `proxy.headers`, and a package is its folder's name."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 1:
        parts.pop()
    return ".".join(parts)


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


@functools.cache
def nodes(path):
    return list(ast.walk(parsed(path)))


def imports(path):
    """(line, module) of every import, those for types and those in functions included; absolute names."""
    package = ["wrapper", *path.relative_to(PACKAGE).parts[:-1]]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, BOTTOM if alias.name == "wrapper" else alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[:len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, submodule(source, alias.name)) for alias in node.names)


def submodule(source, name):
    """`from wrapper import gate` imports the module wrapper.gate; `from wrapper.gate import Gate` only wrapper.gate."""
    if source.split(".")[0] == "wrapper":
        place = ROOT.joinpath(*source.split("."), name)
        if place.with_suffix(".py").exists() or place.is_dir():
            return f"{source}.{name}"
        if source == "wrapper" and name == "__version__":
            return BOTTOM
    return source


def inner_imports(path):
    """(line, room, module) of the imports from this package, as `dotted` names them."""
    for line, module in imports(path):
        if module.split(".")[0] == "wrapper":
            yield line, module.partition(".")[2] or "__init__"


def layer(module):
    """The number of the layer, from the top."""
    room = module.split(".")[0]
    found = [number for number, rooms in enumerate(LAYERS) if room in rooms]
    assert found, f"{module}: this room has no layer yet; give it one in LAYERS"
    return found[0]


@pytest.mark.parametrize("path", modules(), ids=title)
def test_arrows_point_down(path):
    mine = layer(dotted(path))
    upwards = [f"{title(path)}:{line} imports {module}" for line, module in inner_imports(path) if layer(module) < mine]
    assert not upwards


@pytest.mark.parametrize("path", modules(), ids=title)
def test_proxy_and_service_meet_only_at_the_gate(path):
    other = {"proxy": "service", "service": "proxy"}.get(dotted(path).split(".")[0])
    assert not [module for _, module in inner_imports(path) if module.split(".")[0] == other]


def test_no_cycles():
    """Between rooms the layers forbid them, in annotations too; within one, what is only a type may point back."""
    graph = {}
    for path in modules():
        wanted = {name.partition(".")[2] for _, name in run_time_imports(path) if name.startswith("wrapper.")}
        graph[dotted(path)] = wanted - {dotted(path)}
    while leaves := {module for module, wanted in graph.items() if not wanted & graph.keys()}:
        graph = {module: wanted for module, wanted in graph.items() if module not in leaves}
    assert not graph, f"on a cycle, or above one: {sorted(graph)}"


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_touches_no_socket_and_no_process(room):
    paths = {dotted(path): path for path in modules()}
    reached, waiting = set(), [room]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in paths:
            continue
        reached.add(module)
        for _, name in run_time_imports(paths[module]):
            top = name.split(".")[0]
            assert top not in IMPURE, f"{room} reaches {name} through {module}"
            if top == "wrapper":
                waiting.append(name.partition(".")[2])


def run_time_imports(path):
    typed = [(node.lineno, node.end_lineno) for node in nodes(path)
             if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"]
    return [(line, name) for line, name in imports(path) if not any(first <= line <= last for first, last in typed)]


@functools.cache
def is_standard(name):
    """Built in, frozen, or found in the standard library's own folders."""
    origin = getattr(importlib.util.find_spec(name), "origin", None)
    if origin in ("built-in", "frozen"):
        return True
    places = {os.path.realpath(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib")}
    places |= {os.path.join(place, "lib-dynload") for place in places}
    inside = origin and any(os.path.realpath(origin).startswith(place + os.sep) for place in places)
    return bool(inside and "-packages" not in origin)


@pytest.mark.parametrize("path", modules(), ids=title)
def test_only_the_standard_library(path):
    names = {module.split(".")[0] for _, module in imports(path)} - {"wrapper", "__future__"}
    assert not [name for name in names if not is_standard(name)]


def test_no_class_name_stands_twice():
    """One word a thing: what is met under a name in one room is the same thing in every other."""
    places = {}
    for path in modules():
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, set()).add(title(path))
    assert not {name: found for name, found in places.items() if len(found) > 1}


def functions(path):
    return [node for node in nodes(path) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", modules(), ids=title)
def test_an_import_in_a_function_has_its_reason_beside_it(path):
    lines = path.read_text().splitlines()
    inside = {node.lineno for function in functions(path) for node in ast.walk(function)
              if isinstance(node, (ast.Import, ast.ImportFrom))}
    assert not [f"{title(path)}:{line}" for line in sorted(inside)
                if "#" not in lines[line - 1] and not follows_comment(lines, line - 1)]


def follows_comment(lines, index):
    """Whether a comment stands above, or above the imports right above."""
    while index > 0 and lines[index - 1].strip().startswith(("import ", "from ")) and "#" not in lines[index - 1]:
        index -= 1
    return index > 0 and "#" in lines[index - 1]


@pytest.mark.parametrize("path", modules(), ids=title)
def test_nothing_is_too_long(path):
    count = len(path.read_text().splitlines())
    assert count <= MAX_MODULE, f"{title(path)} has {count} lines"
    long = [f"{title(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
            for node in functions(path) if node.end_lineno - node.lineno + 1 > MAX_FUNCTION]
    assert not long


@pytest.mark.parametrize("path", modules(), ids=title)
def test_every_module_says_what_room_it_is(path):
    assert ast.get_docstring(parsed(path)) or not parsed(path).body


def global_names(path):
    """What stands at a module's top level, by the names that functions know it by."""
    for node in parsed(path).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("path", modules(), ids=title)
def test_no_comprehension_has_a_variable_named_like_a_global(path):
    """CPython 3.12.1 inlines it (PEP 709), and then takes the global's name for a local one: UnboundLocalError."""
    globals_ = set(global_names(path))
    shadowing = [f"{title(path)}:{node.lineno} {name.id}" for function in functions(path)
                 for node in ast.walk(function) if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp))
                 for generator in node.generators for name in ast.walk(generator.target)
                 if isinstance(name, ast.Name) and name.id in globals_]
    assert not shadowing


def calls(path, *names):
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def test_one_room_starts_threads():
    """There each gets a name and never keeps the process alive, and "can't start new thread" has one name."""
    kinds = ("threading.Thread", "threading.Timer", "Thread", "Timer")
    assert {title(path) for path in modules() if list(calls(path, *kinds))} == {"wrapper/threads.py"}


@pytest.mark.parametrize("path", modules(), ids=title)
def test_a_comment_at_every_lock_says_what_it_guards(path):
    lines = path.read_text().splitlines()
    for call in calls(path, "threading.Lock", "threading.RLock", "threading.Condition"):
        if "#" in lines[call.lineno - 1]:
            continue
        above = next(line for line in reversed(["", *lines[:call.lineno - 1]])
                     if "threading.Lock()" not in line and "threading.Condition(" not in line)
        assert above.strip().startswith("#"), f"{title(path)}:{call.lineno}"


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_what_python_reads_first_is_readable_to_pythons_that_are_too_old(name):
    """A syntax of today would be a traceback there, where `__main__.py` is to say what is wrong."""
    for node in nodes(PACKAGE / name):
        assert not isinstance(node, (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr)), ast.unparse(node)
        assert getattr(node, "module", None) != "__future__"
        assert getattr(node, "annotation", None) is None and getattr(node, "returns", None) is None


def test_one_room_installs_signal_handlers():
    """A handler anywhere else would be a second place that decides what a signal means.

    process.py only restores what came ignored, between fork and exec.
    """
    found = [title(path) for path in modules() if list(calls(path, "signal.signal"))]
    assert set(found) <= {"wrapper/signals.py", "wrapper/service/process.py"}


def test_nothing_slow_is_imported_before_the_service_is_spawned():
    program = "import sys, wrapper.cli, wrapper.entrypoint; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not SLOW & set(done.stdout.split())


def test_a_test_that_sleeps_says_why():
    """Tests wait for an event, a line or a state; a bare sleep is a guess about somebody else's machine."""
    bare = [f"{title(path)}:{number}" for path in sorted((ROOT / "tests").rglob("*.py"))
            if "services" not in path.parts
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if re.match(r"\s*(time\.)?sleep\(", line) and "#" not in line]
    assert not bare


def test_only_what_belongs_there_is_at_the_top_level():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert not {name for name in names if not name.startswith(".")} - TOP_LEVEL


def between(name):
    """The README's lines between `<!-- name -->` and `<!-- /name -->`."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", README.read_text(), re.DOTALL)
    assert found, f"README.md has no <!-- {name} --> part"
    return found[1].splitlines()


def test_the_table_of_settings_is_the_one_of_the_code():
    rows = []
    for row in settings.table():
        default = f"`{row.default}`" if row.default and not row.is_switch else ""
        rows.append(f"| `{f'{row.flag} {row.unit}'.strip()}` | {default} | {row.meaning} |")
    assert between("settings") == ["| option | default | meaning |", "|---|---|---|", *rows]


def test_the_versions_of_package_and_module_are_one():
    done = subprocess.run([sys.executable, "-m", "wrapper", "--version"], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert wrapper.__version__ in done.stdout


NO_SUBJECT = re.compile(r"\b(?:whoever|nobody|somebody|anybody|everybody)\b", re.IGNORECASE)


@pytest.mark.parametrize("path", modules(), ids=title)
def test_a_sentence_names_its_subject(path):
    """The client, the caller, the service, the loop; the one value that is such a word is a name users see."""
    text = path.read_text().replace('UNROUTED = "nobody"', "")
    assert not NO_SUBJECT.findall(text)


LEANS_ON_ANOTHER = re.compile(r"(?:The same|Both|It|They|Those|These|Its|As (?:above|below))\b")


def test_a_docstring_can_be_read_alone():
    """It opens with a verb or a noun, and does not lean on the one above it."""
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Module)
    leaning = [f"{title(path)}:{getattr(node, 'lineno', 1)}" for path in modules() for node in nodes(path)
               if isinstance(node, kinds) and LEANS_ON_ANOTHER.match(ast.get_docstring(node) or "")]
    assert not leaning


# Words of this project's own; the field has others: job queue, loop, task, restart policy, special fields, stream.
PRIVATE_WORDS = {"aftermath", "agenda", "bell", "care", "delivery", "door", "doorbell", "evict", "lot", "passage",
                 "seat", "sheltered", "spare", "stay", "ticket", "vigil", "vitals"}


@pytest.mark.parametrize("path", modules(), ids=title)
def test_names_are_made_of_the_fields_words(path):
    names = {getattr(node, kind, None) for node in nodes(path) for kind in ("name", "id", "attr", "arg")} - {None}
    words = {word.lower() for name in names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    assert not words & PRIVATE_WORDS


def test_the_picture_and_the_table_name_modules_that_there_are():
    picture = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
    boxes = re.findall(r"(\w+)/ +\((\w+(?:, \w+)+)\)", picture)
    assert {folder for folder, _ in boxes} == {"sidecar", "service", "proxy", "config"}
    named = {f"{folder}/{name}.py" for folder, names in boxes for name in names.split(", ")}
    named.update(re.findall(r"`([\w/]+\.py)`(?=[^|]*\|$)", picture, re.MULTILINE))
    assert {"errors.py", "sidecar/traffic.py"} < named
    assert not {path for path in named if not (PACKAGE / path).exists()}


TESTED_ELSEWHERE = {
    "config/journal.py",  # by the repairs of test_transaction.py and test_folder.py
}


def test_every_module_has_the_test_file_of_its_name():
    places = {str(path.relative_to(PACKAGE)): ROOT / "tests" / path.relative_to(PACKAGE).parent /
              f"test_{path.stem.strip('_')}.py" for path in modules() if path.stem != "__init__"}
    assert {module for module, place in places.items() if not place.exists()} == TESTED_ELSEWHERE
