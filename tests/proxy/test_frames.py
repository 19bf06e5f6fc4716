"""frames.py: where a WebSocket message ends. RFC 6455 section 5. Pure."""

from hypothesis import given, strategies as st

from tests.proxy.road import frame
from wrapper.proxy.frames import Frames, close_frame


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), min_size=1, max_size=8), st.data())
def test_frames_are_followed_however_they_are_split(messages, data):
    frames = [frame(payload, masked) for payload, masked in messages]
    text = b"".join(frames)
    ends = set()
    for count in range(len(frames)):
        ends.add(len(b"".join(frames[:count + 1])))
    follower, at = Frames(), 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        last = follower.feed(text[at:at + size])
        inside = [end for end in ends if at < end <= at + size]
        assert last == (max(inside) - at if inside else -1)
        at += size
        assert follower.is_between == (at in ends)


def test_large_frames_are_followed():
    follower = Frames()
    text = frame(b"x" * 70_000)
    assert follower.feed(text[:5]) == -1
    assert follower.feed(text[5:] + b"\x82") == len(text) - 5
    assert not follower.is_between


def test_a_close_frame_is_masked_for_the_service_only():
    assert close_frame(1012, is_masked=False) == b"\x88\x02\x03\xf4"
    assert len(close_frame(1012, is_masked=True)) == 8
