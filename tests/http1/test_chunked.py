"""chunked.py: bodies taken apart, however they are split and however small their chunks are (RFC 9112 section 7.1)."""

import pytest
from hypothesis import given, strategies as st

from wrapper.http1.chunked import Chunked, chunk, last_chunk
from wrapper.http1.request import Malformed


def taken_apart(wire, cuts=(), **how):
    reader, payload, begin = Chunked(1000, **how), b"", 0
    for end in [*sorted(cuts), len(wire)]:
        left = memoryview(wire)[begin:end]
        while left and not reader.is_done:
            payload += b"".join(bytes(piece) for piece in reader.feed(left))
            left = reader.surplus
        reader.surplus = bytes(left)
        begin = end
    return reader, payload


@given(st.data(), st.lists(st.binary(min_size=1, max_size=40), max_size=30), st.booleans())
def test_what_is_put_together_is_taken_apart_however_it_is_split(data, pieces, upper):
    wire = b"".join(chunk(piece) if not upper else chunk(piece).replace(b"%x\r\n" % len(piece),
                                                                       b"%X\r\n" % len(piece), 1) for piece in pieces)
    wire += last_chunk(b"X: y\r\n")
    cuts = data.draw(st.lists(st.integers(0, len(wire)), max_size=8))
    reader, payload = taken_apart(wire + b"GET", cuts)
    assert payload == b"".join(pieces)
    assert reader.is_done and reader.trailers == b"X: y\r\n" and reader.surplus == b"GET"


@pytest.mark.parametrize("line", [b"1\r\n", b"01\r\n", b"1;a\r\n", b"1 ; a = b\r\n", b'1;a="b\\"; c"\r\n',
                                  b"1;a=b;c\r\n"])
def test_sizes_and_extensions_as_the_grammar_has_them(line):
    assert taken_apart(line + b"x\r\n0\r\n\r\n")[1] == b"x"


@pytest.mark.parametrize("line", [b"5;\r\n", b"5;bad[=x\r\n", b"1 \r\n", b" 1\r\n", b"+1\r\n", b"1;a=\r\n",
                                  b'1;a="b\r\n', b"1;a b\r\n", b"0x1\r\n", b"1_0\r\n", b"\r\n", b";a\r\n", b"1\n"])
def test_what_the_grammar_does_not_have_is_malformed(line):
    with pytest.raises(Malformed):
        taken_apart(line + b"x\r\n0\r\n\r\n")


def test_a_size_is_of_hexadecimal_digits_whatever_number_another_byte_would_make():
    """A size that a front takes for another smuggles a request (RFC 9112 section 11.2)."""
    wrong = [bytes((byte,)) for byte in range(256) if chr(byte) not in "0123456789abcdefABCDEF"]
    for size in (*wrong, *(b"1" + one for one in wrong), *(one + b"1" for one in wrong)):
        for count in range(1, 40):
            with pytest.raises(Malformed):
                taken_apart(size + b"\r\n" + b"x" * count + b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("wire", [b"1\r\nxy\r\n", b"2\r\nx\r\n0\r\n\r\n", b"1\r\nx\n", b"1\r\nx\rz"])
def test_a_chunk_ends_where_its_size_says(wire):
    with pytest.raises(Malformed):
        taken_apart(wire)


def test_a_service_may_pad_its_sizes():
    """Some fill a field of fixed width; nothing about the framing is in doubt."""
    assert taken_apart(b"5   \r\nhello\r\n0\r\n\r\n", mends=True)[1] == b"hello"


def test_very_many_small_chunks_are_taken_apart_a_part_at_a_time():
    """The loop's other tasks have their turn in between."""
    reader = Chunked(1000)
    assert len(reader.feed(b"1\r\nx\r\n2\r\nxx\r\n" * 50_000)) == 4096
    assert len(reader.surplus) == 13 * (50_000 - 2048)


def test_chunks_alike_are_taken_apart_many_at_once():
    """One by one, 1 MiB in chunks of a byte takes as long as a hundred such bodies in one piece."""
    reader = Chunked(1000)
    pieces = reader.feed(b"".join(b"1\r\n%c\r\n" % (at % 256) for at in range(20_000)))
    assert len(pieces) < 400 and b"".join(pieces) == bytes(at % 256 for at in range(20_000))


SIZES, COUNTS = st.sampled_from([1, 2, 10, 15, 16, 63, 64]), st.sampled_from([1, 2, 256, 257, 258, 600])
RUNS = st.lists(st.tuples(SIZES, COUNTS, st.sampled_from([b"%x", b"%X", b"%02x"])), max_size=3)


@given(RUNS, st.randoms(use_true_random=False))
def test_runs_of_chunks_alike_are_taken_apart_as_one_by_one(runs, random):
    payload = [random.randbytes(size) for size, count, _ in runs for _ in range(count)]
    lines = [digits % size for size, count, digits in runs for _ in range(count)]
    wire = b"".join(b"%b\r\n%b\r\n" % chunk for chunk in zip(lines, payload)) + last_chunk()
    assert judged(wire, ()) == judged(wire, range(0, len(wire), 100)) == (b"".join(payload), True, b"")


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("byte", [b"\r", b"\n", b"3", b"4", b";", b"x"])
def test_a_chunk_that_only_looks_alike_is_judged_for_itself(column, byte):
    wire = bytearray(b"3\r\nabc\r\n" * 1000 + last_chunk())
    wire[8 * 800 + column:8 * 800 + column + 1] = byte
    assert judged(wire, ()) == judged(wire, range(0, len(wire), 100))


def judged(wire, cuts):
    """The payload and what lies behind it; the fault, where there is one."""
    try:
        reader, payload = taken_apart(bytes(wire), cuts)
    except Malformed as error:
        return str(error)
    return payload, reader.is_done, bytes(reader.surplus)


def test_a_large_chunk_is_passed_on_without_a_copy():
    data, reader = memoryview(b"x" * 1000), Chunked(1000)
    reader.feed(b"ffff\r\n")
    (piece,) = reader.feed(data)
    assert piece is data
