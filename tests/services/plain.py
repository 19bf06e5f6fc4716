"""Answers every GET with its pid, and every POST with the body it got; prints the signals it is sent."""

import http.server
import os
import signal
import sys

ENDING = []  # the signals to end that have come


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(str(os.getpid()).encode())

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


def report(number, frame):
    sys.stderr.write(f"signal {number}\n")  # one write: the wrapper's own lines go to the same place
    if number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        ENDING.append(number)


class Server(http.server.ThreadingHTTPServer):
    def service_actions(self):
        if ENDING:
            # At once: an interpreter that winds up has its handlers undone, and would die of a second signal.
            os._exit(int(sys.argv[2]) if len(sys.argv) > 2 else 0)


server = Server(("127.0.0.1", int(sys.argv[1])), Handler, bind_and_activate=False)
for number in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
               signal.SIGWINCH, signal.SIGALRM, signal.SIGPIPE, signal.SIGTTIN, signal.SIGTTOU, signal.SIGRTMIN + 3}:
    signal.signal(number, report)
server.server_bind()  # last: from here on it counts as ready, and may be sent signals
server.server_activate()
server.serve_forever(0.05)
