"""passthrough.py: HTTP/2 with prior knowledge (RFC 9113 section 3.3), held and tunnelled as it comes."""

from tests.running import wait_until


def test_http2_with_prior_knowledge_is_a_tunnel_when_asked_for(road):
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

    def script(line):
        assert line.exactly(len(preface) + 3) == preface + b"abc"
        line.send(b"frames")

    assert road(script, h2c=True).ask(preface + b"abc") == b"frames"


def test_http2_is_held_and_never_counted_for_ever(road):
    made = road(lambda line: line.send(line.exactly(24)), is_open=False, h2c=True)
    line = made.connect().send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    wait_until(lambda: made.gate.held == 1)
    made.gate.open(made.service.address)
    assert line.exactly(24) == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    line.close()
    wait_until(lambda: not made.gate.in_flight)
