"""The one table of settings. Flags, variables, `--help`, `check` and the table in the README all come from it.

Pure: argv and environment in, a frozen `Settings` out, or every fault at once.
"""

from __future__ import annotations

from wrapper.errors import BadSettings
from wrapper.settings import address, values
from wrapper.text import near, program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, Callable

    from wrapper.settings.address import Address

VARIABLE_PREFIX = "WRAPPER_"
VERBS = ("ctl", "health", "check", "bundle", "dockerfile")


class Option:
    """One row of the table: how its text is read, its default as text (None: none), and what it means.

    `many` is the separator between several values in a variable; such an option may also be given several times.
    """

    __slots__ = ("default", "is_secret", "many", "meaning", "name", "read", "unit")

    def __init__(self, read: Callable[[str], Any], default: str | None, unit: str, meaning: str, *,
                 many: str | None = None, is_secret: bool = False) -> None:
        self.read = read
        self.default = default
        self.unit = unit
        self.meaning = meaning
        self.many = many
        self.is_secret = is_secret

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return VARIABLE_PREFIX + self.name.upper()

    @property
    def is_switch(self) -> bool:
        return self.read is values.switch

    def value(self, text: str) -> Any:
        """Raises: ValueError, with a sentence that names the fault."""
        if values.is_service_link(text):
            raise ValueError("this is what Kubernetes' service links put into the environment; "
                             f"set enableServiceLinks: false in the pod, or give {self.flag} on the command line")
        return self.read(text)

    def show(self, texts: Sequence[str]) -> list[str]:
        """Texts for people, one that counts for each value; a secret only says that it is there."""
        if self.is_secret:
            return ["(set)"] if texts else []
        return list(map(self.masked, texts if self.many is not None else texts[-1:]))

    def masked(self, text: str) -> str:
        """One text as faults and `check` may show it."""
        if self.is_secret:
            return "..."
        return values.without_credentials(text) if self.read is values.origin else text


option: Callable[..., Any] = Option  # typed as what its attribute holds once the settings are read


class Settings:
    """Every setting with its value, frozen; `command` is what follows the options, behind `--` or not.

    `origins` says where each value is from, `texts` how it was written there.
    """

    listen: Address = option(
        address.parse, None, "ADDR",
        "the exposed port: `HOST:PORT`, `:PORT` (all addresses, IPv6 too), `[::1]:PORT`, `unix:PATH`; "
        "default `:$PORT` if PORT is set, else `:8080`")
    upstream: Address | None = option(
        address.parse, None, "ADDR",
        "where the service listens inside the container: `HOST:PORT` or `unix:PATH`; "
        "default a free loopback port when COMMAND or `--env` holds `{port}`, otherwise required")
    prefix: str = option(values.prefix, "/sidecar", "PATH", "the wrapper's own paths live under it")
    sidecar: tuple[str, ...] = option(
        values.text, None, "MODULE or FILE.py", "sidecar code of yours; may be given more than once", many=",")

    ready_path: str | None = option(
        values.url_path, None, "PATH",
        "an HTTP path that must answer with `--ready-status`; default none: a TCP connection is enough")
    ready_status: tuple[tuple[int, int], ...] = option(
        values.status_list, "200-399", "LIST", "codes and ranges that mean ready, `200,204,300-399`")
    ready_timeout: float = option(values.positive_duration, "60s", "D", "how long the service may take to become ready")

    live_path: str | None = option(
        values.url_path, None, "PATH",
        "an HTTP path that is asked while the service runs; a service that does not answer it with `--ready-status` is "
        "restarted, behind held requests; default none")
    live_interval: float = option(values.positive_duration, "10s", "D", "between two such looks")
    live_failures: int = option(values.positive_count, "3", "N", "how many of them must fail in a row")

    hold: float = option(
        values.duration, "30s", "D",
        "how long a request may wait while the service starts or restarts; `0` answers 503 at once")
    hold_max: int | None = option(
        values.count, None, "N", "how many may wait; more get 503 with Retry-After;"
        " default as many as --max-connections")
    max_in_flight: int | None = option(
        values.positive_count, None, "N",
        "how many requests the service gets at a time; the others wait in order, as long as `--hold`; tunnels and event"
        " streams do not count; default as many as come")
    replay: str = option(
        values.one_of("idempotent", "safe", "off"), "idempotent", "WHICH",
        "a request whose run of the service ended before its answer began travels once more: `idempotent`"
        " (RFC 9110 section 9.2.2, or with an Idempotency-Key), `safe` or `off`")
    error_page: str | None = option(
        str, None, "FILE",
        "an HTML page for relayed requests that get 502, 503 or 504 from us and accept HTML; `{status}`, `{reason}` and"
        " `{retry_after}` are filled in")
    drain_timeout: float = option(
        values.duration, "3s", "D", "how long requests in flight may go on before a planned stop sends its signal; "
        "after it they go on for as long as the service answers them")
    overlap_drain_timeout: float = option(
        values.duration, "60s", "D", "how long the old run may go on answering what it has after an overlapped restart;"
        " WebSockets and event streams are told to leave at moments spread over the first half of it")
    stop_timeout: float | None = option(
        values.duration, None, "D", "from the stop signal to SIGKILL; "
        "default 6s at the end of the container, 30s in a planned stop or restart; given, it is both")
    shutdown_delay: float = option(
        values.duration, "0s", "D", "at TERM, INT or QUIT `readyz` says 503 at once, and all is still served for that "
        "long before the drain begins: load balancers need a moment")
    stop_signal: int = option(
        values.signal_number, "TERM", "NAME",
        "what a planned stop or restart sends; given, the end of the container too, and from outside it asks for that")

    restart: str = option(
        values.one_of("never", "on-failure", "always"), "never", "POLICY",
        "after an exit that was not planned: `never` (the wrapper exits too, with the same status), "
        "`on-failure`, `always`")
    backoff: tuple[float, float] = option(
        values.span, "500ms..30s", "D..D",
        "first and longest pause between such restarts; doubles, reset by 30 s of readiness")
    restart_mode: str = option(
        values.one_of("replace", "overlap"), "replace", "MODE",
        "planned restarts: `replace` (stop, then start) or `overlap` (needs `{port}`: the new process is ready "
        "before the old one stops)")
    reload: str = option(
        values.action, "restart", "ACTION",
        "what makes the service read its configuration again: `restart`, `signal:HUP`, `POST /-/reload`, or `none` "
        "where it looks by itself")
    exit_status: tuple[tuple[int, int], ...] = option(
        values.exit_statuses, None, "A=B",
        "after a planned stop only: exit B where the service exited A; may be given more than once", many=",")
    env: tuple[tuple[str, str], ...] = option(
        values.variable, None, "NAME=VALUE",
        "a variable for the service, over what the wrapper inherited; `{port}` in it is replaced; may be given more "
        "than once", many="\n")
    helper: tuple[tuple[str, str, tuple[str, ...]], ...] = option(
        values.helper, None, "NAME=/ROUTE=COMMAND",
        "a second service, answered under its own path; may be given more than once", many="\n")

    token_file: str | None = option(
        values.path, None, "PATH", "a file with the token for the guarded paths; read again when it changes")
    token: str | None = option(values.text, None, "T", "the token itself", is_secret=True)
    metrics_token_file: str | None = option(
        values.path, None, "PATH",
        "a file with a token that opens `metrics` alone, which then needs it or the other one")
    private: bool = option(
        values.switch, "false", "", "the token is needed for every own path but `healthz` and `readyz`")
    allowed_hosts: tuple[str, ...] = option(
        values.hosts, "", "LIST", "Host values that own paths answer to, besides addresses and localhost; default any")
    control: str = option(
        values.text, None, "PATH",
        "control socket, mode 0600; default `/run/wrapper.sock`, else under the temporary folder or `/dev/shm`")

    capture_output: bool = option(
        values.switch, "false", "",
        "pass the service's output on byte for byte and keep the last 100 KiB; "
        "default off: the service inherits stdout and stderr")
    output_prefix: bool = option(
        values.switch, "false", "",
        "with --capture-output: pass on whole lines, each behind the name of the service or helper that printed it, "
        "as `service | text`")
    trusted_proxies: tuple[str, ...] = option(
        values.networks, "", "CIDR,...",
        "peers whose X-Forwarded-* and Forwarded are believed; from others they are replaced")
    via: bool = option(
        values.switch, "false", "",
        "name the wrapper in a Via field to the service as well; nginx compresses nothing for a request that has one")
    max_header: int = option(values.head_size, "64KiB", "SIZE", "the longest request line and header section together")
    max_connections: int = option(values.positive_count, "10000", "N", "client connections at a time")
    idle_timeout: float = option(
        values.positive_duration, "75s", "D", "how long a client may be silent between or inside requests")
    header_timeout: float = option(
        values.positive_duration, "10s", "D", "how long a client may take to send a request's head")
    upstream_timeout: float | None = option(
        values.positive_duration, None, "D",
        "how long the service may take to begin its answer, then 504; default none: as long as it likes")
    upstream_keepalive: float = option(
        values.duration, "60s", "D",
        "how long an idle connection to the service is kept for the next request, or less where the service's "
        "`Keep-Alive: timeout=` says so; `0` keeps none")
    h2c: bool = option(values.switch, "false", "", "pass HTTP/2 without TLS (gRPC) through to the service as it comes")
    tls_cert: str | None = option(values.path, None, "PATH", "serve TLS on `--listen` with this certificate chain")
    tls_key: str | None = option(values.path, None, "PATH", "the private key of `--tls-cert`")

    config_source: str | None = option(
        values.origin, None, "URL or PATH", "where the service's configuration comes from: a URL, a file or a folder")
    config_file: str | None = option(values.path, None, "DEST", "the file of the service that it becomes")
    config_env: bool = option(
        values.switch, "false", "",
        "the members of the selected object become variables of the service's next run; null takes one away")
    config_template: str | None = option(
        values.path, None, "FILE", "a template with `$name` or `${name}` for the parts of the source")
    config_select: str | None = option(values.dotted, None, "a.b.c", "the part of a JSON source that counts")
    config_check: tuple[str, ...] | None = option(
        values.command, None, "'CMD {file}'", "must exit 0 for the new file, or it is not used")
    config_action: str | None = option(
        values.action, None, "ACTION", "what makes the service take it, in the words of `--reload`; default the same")
    config_mode: int | None = option(
        values.mode, None, "MODE", "mode of a `--config-file` that is new; default `0644`, else the old file's")
    config_drift: str = option(
        values.one_of("report", "repair"), "report", "WHAT",
        "a managed file that something else changed: `report` (a problem that shows the difference) or `repair`")
    config_history: str | None = option(
        values.path, None, "DIR", "where the last 20 versions are kept, files and variables, mode 0600; default under "
        "`/var/lib`, `/run`, the temporary folder or, without any, in memory")
    config_interval: float = option(values.positive_duration, "5s", "D", "between two looks at the source")
    config_timeout: float = option(values.positive_duration, "10s", "D", "how long one fetch may take")
    config_splay: float = option(
        values.duration, "0s", "D", "wait up to this long, by chance, before a change is applied, so that a fleet "
        "does not restart at once")
    config_min_interval: float = option(values.duration, "10s", "D", "between two changes that are applied")
    config_wait: float = option(values.duration, "5s", "D", "how long the first start waits for a source to answer")
    config_token_file: str | None = option(
        values.path, None, "PATH", "a file with the bearer token for a URL source; read at every fetch")

    log_format: str = option(values.one_of("text", "json"), "text", "FORMAT", "the wrapper's own log, on stderr")
    log_level: str = option(values.one_of("debug", "info", "warning", "error"), "info", "LEVEL", "how much of it")
    access_log: bool = option(values.switch, "false", "", "a line for each request, in the same log")

    command: tuple[str, ...]
    folder: str  # where the wrapper was started
    origins: dict[str, str]
    texts: dict[str, tuple[str, ...]]

    def __init__(self, command: Sequence[str], chosen: Mapping[str, Any], origins: Mapping[str, str],
                 texts: Mapping[str, tuple[str, ...]]) -> None:
        self.__dict__.update(chosen, command=tuple(command), folder=address.folder(), origins=dict(origins),
                             texts=dict(texts))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"settings are frozen: {name} cannot change")


def table() -> tuple[Option, ...]:
    """Every option, in the order of the table."""
    return tuple(row for row in vars(Settings).values() if isinstance(row, Option))


def read(argv: Sequence[str], environment: Mapping[str, str],
         inspect: Callable[[Mapping[str, Any]], Iterable[str]] | None = None) -> Settings:
    """Settings from the command line (what follows the options is the service's command) and the environment.

    Flag beats variable beats default. `inspect` is given the values, None where bad, and yields faults that only a look
    at the machine shows. Raises: BadSettings with every fault, not only the first.
    """
    faults: list[str] = []
    given, command, bad = _split(argv, faults)
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    texts: dict[str, tuple[str, ...]] = {}
    for row in table():
        before = len(faults)
        texts[row.name], origins[row.name] = _texts(row, given.get(row.name, []), environment)
        found = [_value(row, text, origins[row.name], faults) for text in texts[row.name]]
        chosen[row.name] = tuple(found) if row.many is not None else found[-1] if found else None  # the last counts
        if len(faults) > before:
            bad.add(row.name)
    # What has a fault of its own contradicts nothing: one cause, one line.
    faults.extend(fault for names, fault in _contradictions(chosen, command) if not bad & set(names))
    if inspect is not None:
        faults.extend(inspect(chosen))
    if faults:
        raise BadSettings(faults)
    return Settings(command, chosen, origins, texts)


def _split(argv: Sequence[str], faults: list[str]) -> tuple[dict[str, list[str]], tuple[str, ...], set[str]]:
    """The texts given for each option, the service's command, and the options whose value is missing.

    Options end at `--` or at the first word that is none, as with env(1), timeout(1) and tini.
    """
    rows = {row.flag: row for row in table()}
    given: dict[str, list[str]] = {}
    bad: set[str] = set()
    words = list(argv)
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word == "--":
            break
        flag, equals, text = word.partition("=")
        row = rows.get(flag)
        if row is None:
            faults.append(_unknown(flag, rows, has_end="--" in argv))
            if not equals and words and not words[0].startswith("-"):
                words.pop(0)  # its value, more likely than the command
            continue
        if not equals and row.is_switch:
            text = "true"
            if words and words[0] in values.TRUE + values.FALSE:
                faults.append(f"{flag} {words.pop(0)}: it takes no word behind it; say {flag} alone, or {flag}=false")
        elif not equals and (not words or words[0] == "--"):
            faults.append(f"{row.flag}: a value is missing, expected {row.flag} {row.unit}")
            bad.add(row.name)
            continue
        elif not equals:
            text = words.pop(0)
        given.setdefault(row.name, []).append(text)
    return given, tuple(words), bad


def _unknown(flag: str, rows: Mapping[str, Option], has_end: bool) -> str:
    said = f"{flag}: no such option" + (near(flag, rows) or "; see --help")
    return said if has_end else f"{said}; what is the service's own stands behind --, as in: -- COMMAND {flag}"


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether `--help` or `-h` is among the options; behind them it is the service's word."""
    switches = {row.flag for row in table() if row.is_switch}
    is_value = False
    for word in argv:
        if word in ("--help", "-h"):
            return True
        if word == "--" or not (is_value or word.startswith("-")):
            return False
        is_value = word.startswith("-") and "=" not in word and word not in switches
    return False


def _texts(row: Option, given: Sequence[str], environment: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """The texts of one option, and their origin: the flag, the variable or `default`."""
    if given:
        return tuple(given), row.flag
    if text := environment.get(row.variable):
        parts = [text] if row.many is None else filter(None, map(str.strip, text.split(row.many)))
        return tuple(parts), row.variable
    if row.name == "listen":
        return ((f":{environment['PORT']}",), "PORT") if environment.get("PORT") else ((":8080",), "default")
    return () if row.default is None else (row.default,), "default"


def _value(row: Option, text: str, origin: str, faults: list[str]) -> Any:
    shown = row.masked(text)
    if origin == "PORT":
        shown = text[1:]
        text = shown if values.is_service_link(shown) else text
    try:
        return row.value(text)
    except ValueError as error:
        faults.append(f"{origin}={shown}: {error}")
        return None


def _contradictions(chosen: Mapping[str, Any], command: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Faults that no option has alone, each with the options it is about."""
    has_port = any("{port}" in word for word in [*command, *(value for _, value in filter(None, chosen["env"]))])
    upstream, prefix = chosen["upstream"], chosen["prefix"]
    if not command:
        yield (), f"COMMAND: missing; say what to run, as in: {program()} --upstream 127.0.0.1:3000 /run.sh"
    elif upstream is None and not has_port:
        is_behind = any(word.partition("=")[0] == "--upstream" for word in command)
        verb = "" if "/" in command[0] else near(command[0], VERBS)
        yield (("upstream", "env"), "--upstream: missing; " + (
            "it stands behind COMMAND, where it is the service's own: put it before" if is_behind else
            f"there is no verb {command[0]}{verb}" if verb else
            "say where the service listens, or put {port} into COMMAND or --env"))
    if has_port and upstream is not None and upstream.is_unix:
        yield ("upstream",), "--upstream: a unix socket has no port to put in the place of {port}"
    if chosen["restart_mode"] == "overlap" and (upstream is not None or not has_port):
        yield (("restart_mode", "upstream", "env"), "--restart-mode=overlap: needs {port} in COMMAND or --env and no "
               "--upstream, so that two runs can be up at once")
    for one, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("config_file", "config_source"),
                       ("config_env", "config_source"), ("output_prefix", "capture_output")):
        if chosen[one] and not chosen[other]:
            yield (one, other), f"--{one.replace('_', '-')}: needs --{other.replace('_', '-')} too"
    yield from _config_faults(chosen)
    if chosen["token"] is not None and chosen["token_file"] is not None:
        yield ("token", "token_file"), "--token: given together with --token-file; give one"
    if upstream is not None and chosen["listen"] is not None and chosen["listen"].covers(upstream):
        yield (("listen", "upstream"), f"--upstream={upstream}: is what --listen={chosen['listen']} takes; the wrapper "
               "would relay to itself")
    yield from ((("helper", "prefix"), fault) for fault in _helper_faults(chosen["helper"], prefix))


def _config_faults(chosen: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    target = chosen["config_file"]
    if chosen["config_source"] and not target and not chosen["config_env"]:
        yield ("config_source", "config_file", "config_env"), "--config-source: needs --config-file or --config-env too"
    if target and target.endswith("/") and chosen["config_template"]:
        yield (("config_template", "config_file"), f"--config-template: makes one file, and --config-file={target} is "
               "a folder: name a file in it")
    elif target and target.endswith("/") and chosen["config_env"]:
        yield (("config_env", "config_file"), f"--config-env: the members of the object are files in "
               f"--config-file={target}, and cannot be variables too")
    if chosen["config_env"] and not target:
        for name in ("config_template", "config_mode"):
            if chosen[name] is not None:
                yield (name, "config_file"), f"--{name.replace('_', '-')}: is for a --config-file, and there is none"
        if chosen["config_check"] and any("{file}" in word for word in chosen["config_check"]):
            yield ("config_check", "config_file"), "--config-check: without --config-file there is no {file}"


def _helper_faults(helpers: Sequence[tuple[str, str, tuple[str, ...]] | None], prefix: str | None) -> Iterator[str]:
    names, routes = {"service"}, set()
    for name, route, command in filter(None, helpers):
        if name in names:
            yield f"--helper={name}: the name is taken" + (" by the service itself" if name == "service" else "")
        if route in routes:
            yield f"--helper={name}: another one has the route {route}"
        if prefix is not None and (route + "/").startswith(prefix + "/"):
            yield f"--helper={name}: the route {route} is under --prefix={prefix}, where the wrapper answers itself"
        if not any("{port}" in word for word in command):
            yield f"--helper={name}: its command needs {{port}}, the port where it is to listen"
        names.add(name)
        routes.add(route)


def strangers(environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each variable that looks like a setting but is none; Kubernetes' service links make some."""
    known = {row.variable for row in table()}
    for name in sorted(environment.keys() - known):
        if name.startswith(VARIABLE_PREFIX) and not values.is_service_link_name(name):
            yield f"{name} is set, but there is no such setting" + near(name, known)
