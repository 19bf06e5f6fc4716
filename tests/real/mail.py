"""A mail server of the tests' own: takes every message of a client that knows the secret (RFC 5321, RFC 2195)."""

from __future__ import annotations

import base64
import email
import hmac
import socketserver
import threading

USER, SECRET = "on-call", "sesame"


class MailServer(socketserver.ThreadingTCPServer):
    """`messages` are those that came, as (the client's EHLO, the recipient, the message)."""

    allow_reuse_address = daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Session)
        self.address = "{}:{}".format(*self.server_address)
        self.messages = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()


class Session(socketserver.StreamRequestHandler):
    """One client, in step: commands are a line each."""

    def handle(self):
        self.say("220 ready")
        hello = recipient = ""
        is_known = False
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            if verb == "EHLO":
                hello = rest
                self.say("250-tests", "250 AUTH CRAM-MD5")
            elif verb == "AUTH":
                is_known = self.knows_secret()
                self.say("235 welcome" if is_known else "535 who is that?")
            elif verb == "DATA" and is_known:
                self.say("354 go on")
                self.server.messages.append((hello, recipient, email.message_from_bytes(self.message())))
                self.say("250 taken")
            elif verb == "QUIT":
                self.say("221 bye")
                return
            else:
                recipient = rest if verb == "RCPT" else recipient
                self.say("250 well")

    def say(self, *lines):
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())

    def knows_secret(self):
        challenge = b"<1@tests>"
        self.say(f"334 {base64.b64encode(challenge).decode()}")
        user, _, digest = base64.b64decode(self.rfile.readline()).decode().rpartition(" ")
        return (user, digest) == (USER, hmac.new(SECRET.encode(), challenge, "md5").hexdigest())

    def message(self):
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line)
        return b"".join(lines)
