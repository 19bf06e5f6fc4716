"""Serves what its environment says: `variables.py PORT NAME...`, one `NAME=value` a line, and its pid.

Where BREAKS is set it exits with that status.
"""

import http.server
import os
import sys

PORT, NAMES = int(sys.argv[1]), sys.argv[2:]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        lines = [f"{name}={os.environ[name]}" for name in NAMES if name in os.environ]
        body = "\n".join([str(os.getpid()), *lines]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


if "BREAKS" in os.environ:
    sys.exit(int(os.environ["BREAKS"]))
Server(("127.0.0.1", PORT), Handler).serve_forever()
