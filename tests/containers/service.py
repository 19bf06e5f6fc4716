"""A service for containers: `service.py PORT`. Says who it is, prints signals, and ends with 7 on TERM."""

import http.server
import os
import signal
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello from pid {os.getpid()} of uid {os.getuid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def report(number, _):
    print("got", signal.Signals(number).name, flush=True)


def end(number, frame):
    report(number, frame)
    os._exit(7)


signal.signal(signal.SIGHUP, report)
signal.signal(signal.SIGTERM, end)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("listening", flush=True)
server.serve_forever()
