"""The kinds of images there are, as Dockerfiles around one little service; each is tried as it comes and wrapped.

`base`: a key of BASES. `text`: what follows. `port`: the one it answers at, `ours` where the wrapper must take another.
"""

from __future__ import annotations

from tests.containers.engine import STAGE

BASES = {
    "scratch": "FROM scratch\nCOPY echo-static /echo\n",
    "musl": "FROM scratch\nCOPY ld-musl-*.so.1 /lib/\nCOPY echo-musl /echo\n",
    "busybox": 'FROM scratch\nCOPY busybox /bin/busybox\nRUN ["/bin/busybox", "--install", "-s", "/bin"]\n'
               "COPY echo-static /echo\n",
    "distroless": "FROM scratch\nCOPY ld.so libc.so.6 /lib/\nCOPY echo-own-loader /echo\n",
    "python": f"FROM {STAGE}\nCOPY echo /echo\n",
    "debian": f'FROM {STAGE}\nRUN ["rm", "-rf", "/usr/bin/python3", "/usr/bin/python3.13", "/usr/lib/python3",'
              ' "/usr/lib/python3.13"]\nCOPY echo /echo\n',
}


class Kind:
    def __init__(self, base, text, *, port=9000, ours=None, words=(), status=143, options=()):
        self.text = BASES[base] + text
        self.port = port
        self.ours = ours or port
        self.words = words
        self.status = status
        self.options = options


PORT = "ENV PORT=9000\nEXPOSE 9000\n"
KINDS = {
    "scratch, static": Kind("scratch", PORT + 'ENTRYPOINT ["/echo"]\nCMD ["--default", "x"]'),
    "scratch, other words": Kind("scratch", PORT + 'ENTRYPOINT ["/echo"]\nCMD ["--default"]', words=("-a", "b c", "")),
    "musl": Kind("musl", PORT + 'ENTRYPOINT ["/echo", "serve"]'),
    "musl, no entrypoint": Kind("musl", PORT + 'CMD ["/echo", "serve"]'),
    "busybox, shell form": Kind("busybox", PORT + "ENTRYPOINT exec /echo --from-shell $HOME"),
    "busybox, shell form of CMD": Kind("busybox", PORT + "CMD exec /echo 'a  b' \"$PATH\""),
    "distroless": Kind("distroless", PORT + 'ENTRYPOINT ["/echo"]\nCMD ["a"]', words=("-x",)),
    "distroless, any user": Kind("distroless", PORT + 'USER 12345:54321\nENTRYPOINT ["/echo"]'),
    "with Python": Kind("python", PORT + 'ENTRYPOINT ["/echo"]', words=("--", "-m")),
    "with Python's variables": Kind("python", PORT + "ENV PYTHONPATH=/nope PYTHONHOME=/nope LD_LIBRARY_PATH=/nope\n"
                                    'ENTRYPOINT ["/echo"]'),
    "glibc": Kind("debian", PORT + 'ENTRYPOINT ["/echo"]\nCMD ["a"]'),
    "a script that execs": Kind("debian", PORT + 'COPY ["entry script.sh", "/entry script.sh"]\n'
                                'ENTRYPOINT ["/entry script.sh"]\nCMD ["/echo", "a b"]'),
    "quotes": Kind("debian", PORT + r"""ENTRYPOINT ["/echo", "a \"b\" 'c' $HOME \\n", "ü", "{}"]"""),
    "a named user": Kind("debian", PORT + 'USER www-data\nENTRYPOINT ["/echo"]'),
    "a folder with spaces": Kind("debian", PORT + 'WORKDIR "/a b/c"\nENTRYPOINT ["/echo"]'),
    "its own check": Kind("debian", PORT + 'HEALTHCHECK --interval=7s CMD ["/bin/true"]\nENTRYPOINT ["/echo"]'),
    "its own signal": Kind("debian", PORT + 'STOPSIGNAL SIGQUIT\nENTRYPOINT ["/echo", "--term=5"]', status=5),
    "a volume": Kind("debian", PORT + 'VOLUME /data\nENTRYPOINT ["/echo", "--write=/data/lines"]'),
    "locked down": Kind("scratch", PORT + 'USER 12345:12345\nENTRYPOINT ["/echo", "--term=7"]', status=7, options=(
        "--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")),
    "limits of its own": Kind("scratch", PORT + 'ENTRYPOINT ["/echo"]', options=(
        "--ulimit", "nofile=256:512", "--ulimit", "nproc=32768:32768", "--umask", "0027", "--oom-score-adj", "300",
        "--group-add", "77")),
    "no variable for its port": Kind("scratch", 'EXPOSE 9000 9001/udp\nENTRYPOINT ["/echo"]', ours=8080),
}
