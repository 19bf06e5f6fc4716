"""router.py: which route a path is for. No socket."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, strategies as st

from wrapper.errors import MethodNotAllowed
from wrapper.sidecar.router import Route, Router, fixed_part


def answer(request):
    raise NotImplementedError


def table(*routes, trees=()):
    router = Router()
    for method, path in routes:
        router.add(Route(method, path, answer))
    for path in trees:
        router.add(Route("GET", path, answer, is_tree=True))
    return router


def found(router, method, path):
    hit = router.find(method, path)
    return None if hit is None else (hit[0].pattern, hit[1])


def test_a_whole_path_is_found():
    assert found(table(("GET", "/a")), "GET", "/a") == ("/a", {})
    assert found(table(("GET", "/a")), "GET", "/a/") is None


def test_a_parameter_is_one_segment_and_never_empty():
    router = table(("GET", "/things/{name}/parts/{part}"))
    assert found(router, "GET", "/things/x/parts/7") == (
        "/things/{name}/parts/{part}", {"name": "x", "part": "7"})
    assert found(router, "GET", "/things//parts/7") is None
    assert found(router, "GET", "/things/a/b/parts/7") is None


def test_the_other_characters_of_a_pattern_mean_themselves():
    router = table(("GET", "/a.b/{x}"))
    assert found(router, "GET", "/a.b/1")
    assert found(router, "GET", "/aXb/1") is None


def test_a_whole_path_comes_before_a_pattern_and_a_pattern_before_a_tree():
    router = table(("GET", "/a/{x}"), ("GET", "/a/b"), trees=["/a"])
    assert found(router, "GET", "/a/b")[0] == "/a/b"
    assert found(router, "GET", "/a/c")[0] == "/a/{x}"
    assert found(router, "GET", "/a/c/d")[0] == "/a"


def test_the_longest_tree_wins_and_ends_at_a_slash():
    router = table(trees=["/a", "/a/b"])
    assert found(router, "GET", "/a/b/c")[0] == "/a/b"
    assert found(router, "PUT", "/a/bc")[0] == "/a"
    assert found(router, "GET", "/ab") is None


def test_head_finds_get():
    """RFC 9110 section 9.3.2."""
    assert found(table(("GET", "/a")), "HEAD", "/a")
    with pytest.raises(MethodNotAllowed):
        table(("POST", "/a")).find("HEAD", "/a")


def test_a_method_that_is_not_there_is_405_with_allow():
    """RFC 9110 section 15.5.6."""
    with pytest.raises(MethodNotAllowed) as refusal:
        table(("GET", "/a"), ("POST", "/a")).find("DELETE", "/a")
    assert refusal.value.headers == (("Allow", "GET, HEAD, POST"),)


def test_a_path_that_two_routes_know_allows_the_methods_of_both():
    router = table(("GET", "/a/b"), ("PUT", "/a/{x}"))
    assert found(router, "PUT", "/a/b")[0] == "/a/{x}"
    with pytest.raises(MethodNotAllowed) as refusal:
        router.find("POST", "/a/b")
    assert dict(refusal.value.headers)["Allow"] == "GET, HEAD, PUT"


@pytest.mark.parametrize("path", ["", "a", "//a", "/a//b", "/a?b", "/{x}/{x}", "/{1}", "/{x", "/x}", "/{}"])
def test_a_path_that_can_never_match_is_refused(path):
    with pytest.raises(ValueError, match="path|parameter"):
        Route("GET", path, answer)


@pytest.mark.parametrize("method", ["get", "", "GE T", "G\n"])
def test_what_is_no_method_is_refused(method):
    with pytest.raises(ValueError, match="method"):
        Route(method, "/a", answer)


@pytest.mark.parametrize("path", ["/a", "/a/{x}"])
def test_a_route_cannot_be_taken_twice(path):
    router = table(("GET", path))
    router.add(Route("POST", path, answer))
    with pytest.raises(ValueError, match="taken"):
        router.add(Route("GET", path, answer))


def test_a_tree_cannot_be_taken_twice():
    with pytest.raises(ValueError, match="already"):
        table(trees=["/a", "/a"])


def test_the_fixed_part_of_a_pattern():
    assert fixed_part("/a/{x}/b") == "/a/"
    assert fixed_part("/a") == "/a"


def test_a_path_whose_parameters_have_other_names_is_taken_too():
    """The second would never be reached."""
    router = table(("GET", "/p/{a}"))
    with pytest.raises(ValueError, match="taken"):
        router.add(Route("GET", "/p/{b}", answer))
    router.add(Route("POST", "/p/{b}", answer))
    assert found(router, "POST", "/p/x") == ("/p/{b}", {"b": "x"})


def as_expression(pattern):
    """What a pattern means, said with a regular expression."""
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile("".join(f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part)
                              for index, part in enumerate(parts)), re.DOTALL)


@given(st.text("./-x", max_size=9), st.sampled_from([
    "/{a}", "/{a}.{b}", "/{a}.{b}.{c}", "/{a}{b}", "/x{a}--{b}x", "/{a}/{b}.x", "/{a}.{b}/-{c}{d}-", "/{a}/"]))
@example("a.b.c", "/{a}.{b}")
def test_parameters_are_as_greedy_as_an_expression_of_the_same_meaning(path, pattern):
    match = as_expression(pattern).fullmatch("/" + path)
    hit = found(table(("GET", pattern)), "GET", "/" + path)
    assert hit == (None if match is None else (pattern, match.groupdict()))
