"""Answers GET /slow once the file `argv[2]` exists; on TERM or QUIT finishes what it has, and ends."""

import http.server
import os
import signal
import sys
import threading

ENDING = []  # the signals to end that have come


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/slow":
            self.wfile.write(body[:1])
            sys.stderr.write(f"begun by {os.getpid()}\n")
            while not os.path.exists(sys.argv[2]):
                threading.Event().wait(0.01)
            body = body[1:]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *words):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # the process ends when all are answered

    def service_actions(self):
        if ENDING:
            self.server_close()  # waits for the threads
            os._exit(0)


def stop(number, frame):
    sys.stderr.write(f"signal {number} for {os.getpid()}\n")
    ENDING.append(number)


for number in (signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, stop)
server = Server(("127.0.0.1", int(sys.argv[1])), Handler)  # last: from here on it counts as ready, and may be stopped
server.serve_forever(0.05)
