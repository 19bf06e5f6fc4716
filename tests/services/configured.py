"""Serves what its configuration file says: `configured.py PORT FILE [WORD]`.

`reads` in front of its answers counts how often it read the file. It reads it at the start, on HUP and for POST
/-/reload. A file that holds `broken` keeps it from starting, is refused with 500 by a reload (the old one stays), and
`fatal` ends it whenever it is read; `late-fatal` half a second after a HUP or a reload.
"""

import http.server
import os
import signal
import sys
import threading

PORT, FILE = int(sys.argv[1]), sys.argv[2]
STATE = {"content": "", "reads": 0}


def read(is_start):
    with open(FILE) as file:
        content = file.read()
    print("reads", content[:60].strip(), flush=True)
    if "late-fatal" in content:
        if is_start:
            os._exit(5)
        threading.Timer(0.5, os._exit, (5,)).start()
    elif "fatal" in content:
        print("this configuration ends me", flush=True)
        os._exit(4)
    if "broken" in content:
        if is_start:
            print("this configuration is broken", flush=True)
            sys.exit(3)
        raise ValueError("this configuration is broken")
    STATE.update(content=content, reads=STATE["reads"] + 1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(200, f"{STATE['reads']} {os.getpid()} {STATE['content']}")

    def do_POST(self):
        try:
            read(False)
        except ValueError as error:
            self.answer(500, f"cannot reload: {error}\n")
            return
        self.answer(200, "reloaded")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def on_hup(number, frame):
    try:
        read(False)
    except ValueError as error:
        print(error, flush=True)


read(True)
signal.signal(signal.SIGHUP, on_hup)
http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
