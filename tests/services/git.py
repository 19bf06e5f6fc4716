"""git's own http-backend, for gunicorn: `GIT_PROJECT_ROOT=FOLDER gunicorn tests.services.git:app`.

A pack goes out in 8 s, while git waits with the rest of it. /slow answers after 8 s without git.

git is in a session of its own, as a server puts it that ends in order: a signal to the service's group leaves it alone.
"""

import os
import subprocess
import time

SECONDS = 8
PIECES = 40


def app(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SECONDS)  # what the answer takes
        start_response("200 OK", [("Content-Length", "4")])
        return [b"slow"]
    if not environ["PATH_INFO"].endswith(("/info/refs", "/git-upload-pack")):
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]
    names = ("PATH_INFO", "QUERY_STRING", "REQUEST_METHOD", "CONTENT_TYPE", "CONTENT_LENGTH", "REMOTE_ADDR")
    variables = {name: environ[name] for name in names if environ.get(name)}
    if "HTTP_GIT_PROTOCOL" in environ:
        variables["GIT_PROTOCOL"] = environ["HTTP_GIT_PROTOCOL"]
    git = subprocess.Popen(["git", "http-backend"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           env={**os.environ, **variables, "GIT_HTTP_EXPORT_ALL": "1"}, start_new_session=True)
    git.stdin.write(environ["wsgi.input"].read())
    git.stdin.close()
    fields = []
    while line := git.stdout.readline().strip().decode():
        fields.append(tuple(line.split(": ", 1)))
    status = dict(fields).pop("Status", "200 OK")
    start_response(status, [field for field in fields if field[0] != "Status"])
    is_pack = environ["PATH_INFO"].endswith("/git-upload-pack") and b"packfile" in git.stdout.peek(65536)
    return slowly(git) if is_pack else iter(git.stdout.read, b"")


def slowly(git):
    size = int(os.environ["PACK_SIZE"]) // PIECES
    while piece := git.stdout.read(size):
        yield piece
        time.sleep(SECONDS / PIECES)  # a client at the end of a thin line
    git.wait()
