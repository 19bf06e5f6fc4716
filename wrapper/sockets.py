"""Sockets of either kind, TCP or unix, by `Address`: listen, connect, find a free port, ask whether one is free."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
import struct

from wrapper.settings.address import LOOPBACK, UNIX_PATH_BYTES, Address, unix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Names = tuple[tuple[str, int], tuple[str, int]]  # (host, port) of our end of a connection, and of the other

# Below net.ipv4.ip_local_port_range (32768 and up, ip(7)): the kernel may give any connection one of those between
# our choice and the moment when the service, which may take seconds, binds it.
PORTS = range(18000, 27000)
PORT_TRIES = 50
PROBE_TIMEOUT = 2.0  # seconds for what listens at a unix socket
SHORTEST = 0.001  # seconds of a timeout: none at all would be without end
RESERVE = 8  # descriptors that no client causes to be taken: the next run, its probe, ctl and health need a few
CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred, unix(7)
# errno of a socket that cannot be had, or used, because this machine or this process is short of something.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
BACKLOG = 4096  # connections; the kernel caps it at net.core.somaxconn, 4096 since Linux 5.4


def listen(address: Address, mode: int | None = None) -> socket.socket:
    """A bound and listening socket. `:PORT` takes IPv4 and IPv6 on one socket where the kernel has both.

    `mode`: permissions of a unix socket, None leaves them to the umask.

    Raises: OSError when the address is taken or not ours.
    """
    if address.path is not None:
        return _listen_unix(address.path, mode)
    if address.host:
        family, _, _, _, sockaddr = socket.getaddrinfo(
            _name(address.host), address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _listen_tcp(family, sockaddr)
    try:
        return _listen_tcp(socket.AF_INET6, ("::", address.port))
    except OSError as error:
        # A kernel without IPv6 (ipv6.disable=1) or with it turned off for this namespace.
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _listen_tcp(socket.AF_INET, ("0.0.0.0", address.port))


def _listen_tcp(family: int, sockaddr: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if sockaddr[0] == "::" else 1)
        listener.bind(sockaddr)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: str, mode: int | None) -> socket.socket:
    _remove_stale(path)
    if os.path.lexists(path):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound beside its path and moved there once it listens: a client that finds the file can connect, and no other
    # wrapper takes it for one that was left behind.
    beside = _name_beside(path)
    try:
        if mode is not None:
            # Before the bind, so that there is no moment in which it is open to others: Linux makes the file from it.
            os.fchmod(listener.fileno(), mode)
        listener.bind(beside)
        listener.listen(BACKLOG)
        os.rename(beside, path)
    except OSError:
        listener.close()
        raise
    return listener


def _name_beside(path: str) -> str:
    """A free name in the same folder; the name itself where that would be too long for sun_path (unix(7))."""
    beside = os.path.join(os.path.dirname(path), f".{os.urandom(4).hex()}")
    return beside if len(os.fsencode(beside)) <= UNIX_PATH_BYTES else path


def _remove_stale(path: str) -> None:
    """Remove a socket file that no process listens on, which is what a SIGKILL leaves behind; keep a live one."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            connect(unix(path), timeout=1.0).close()
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass  # there is none, or what it is cannot be known


def connect(address: Address, timeout: float | None) -> socket.socket:
    """A connected socket with TCP_NODELAY set; `timeout` in seconds stays on it, None blocks.

    Raises: OSError, TimeoutError among them (socket.timeout on CPython 3.9).
    """
    if address.path is None:
        connected = _connect_tcp(address, timeout)
        refuse_self(connected, address)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _await_room(connected, address.path, timeout)
        connected.settimeout(timeout)
    except OSError:
        connected.close()
        raise
    return connected


def _connect_tcp(address: Address, timeout: float | None) -> socket.socket:
    """Raises: OSError, that of the first address."""
    first, *others = ((_name(host), address.port) for host in _hosts(address))
    try:
        return socket.create_connection(first, timeout)  # type: ignore[arg-type]  # getaddrinfo takes bytes
    except OSError:
        for other in others:
            with contextlib.suppress(OSError):
                return socket.create_connection(other, timeout)  # type: ignore[arg-type]  # as above
        raise


def _hosts(address: Address) -> Sequence[str]:
    """`localhost` is both loopbacks (RFC 6761 section 6.3); so is an empty host to one who connects."""
    return (LOOPBACK, "::1") if address.host in ("", "localhost") else (address.host,)


def _await_room(connecting: socket.socket, path: str, timeout: float | None) -> None:
    """Connect a unix socket that blocks: to any other a backlog that is full is an error at once (connect(2), EAGAIN).

    Raises: OSError, TimeoutError among them.
    """
    if timeout is not None:
        _set_send_timeout(connecting, max(timeout, SHORTEST))
    try:
        connecting.connect(path)
    except BlockingIOError:
        raise socket.timeout("timed out") from None
    _set_send_timeout(connecting, 0)


def _set_send_timeout(connecting: socket.socket, seconds: float) -> None:
    """The kernel's own timeout (socket(7)), rounded up to its ticks; 0 is none."""
    timeval = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)


def peer(connection: socket.socket) -> tuple[int, int]:
    """The process at the other end of a unix socket, 0 where it cannot be seen from here, and its user."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, user, _ = CREDENTIALS.unpack(found)
    return pid, user


def host_and_port(name: tuple[str, int]) -> tuple[str, int]:
    """(host, port) of what getsockname and its like say; an IPv4 address in its own form on a socket for both."""
    return name[0].removeprefix("::ffff:"), name[1]


def refuse_self(connected: socket.socket, address: Address) -> Names:
    """A connect to a loopback port without a listener can meet itself: simultaneous open (RFC 9293 section 3.5)."""
    own, other = host_and_port(connected.getsockname()), host_and_port(connected.getpeername())
    if own == other:
        connected.close()
        raise ConnectionRefusedError(errno.ECONNREFUSED, f"nothing listens at {address}")
    return own, other


def known_addresses(address: Address) -> list[tuple[int, Any]]:
    """(family, sockaddr) of each address that needs no look-up; none for a name."""
    if address.path is not None:
        return [(socket.AF_UNIX, address.path)]
    return [(family, (host, address.port)) for host in _hosts(address) for family in (socket.AF_INET, socket.AF_INET6)
            if _is_numeric(family, host)]


def _is_numeric(family: int, host: str) -> bool:
    try:
        socket.inet_pton(family, host)
    except OSError:
        return False
    return True


def resolve(address: Address) -> list[tuple[int, Any]]:
    """(family, sockaddr) of each address that a name has; may take as long as a name server likes. Raises: OSError."""
    found = socket.getaddrinfo(_name(address.host), address.port, type=socket.SOCK_STREAM)
    return [(family, sockaddr) for family, _, _, _, sockaddr in found]


def begin_connect(family: int) -> socket.socket:
    """A socket to connect without waiting. Raises: OSError."""
    connecting = socket.socket(family, socket.SOCK_STREAM)
    connecting.setblocking(False)
    if family != socket.AF_UNIX:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connecting


def _name(host: str) -> str | bytes:
    """`host` as getaddrinfo takes it without the IDNA codec: 2.5 ms at start-up, and some at every connection."""
    return host.encode() if host.isascii() else host


def is_reserved(fd: int, reserve: int = RESERVE) -> bool:
    """True where `fd` is one of the last that this process may have; the kernel gives the lowest first."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return most != resource.RLIM_INFINITY and fd >= most - min(reserve, most // 2)


def raise_limit() -> tuple[int, int] | None:
    """Let this process have as many descriptors as it may, as Go does; returns the limits before, None if unchanged.

    1,024 is what select(2) once could take, and what many containers get though they may have 20,000.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return None
    return soft, hard


def free_port() -> int:
    """A loopback TCP port that is free at this moment, and that no connection will be given soon."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        for _ in range(PORT_TRIES):
            try:
                probe.bind((LOOPBACK, PORTS.start + int.from_bytes(os.urandom(2), "big") % len(PORTS)))
                break
            except OSError:
                continue
        else:
            probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def is_free(address: Address, *, closed: bool = False) -> bool:
    """True where a service can listen there. `closed`: connections to a port that were closed a moment ago (TIME_WAIT)
    do not count, as for a service with SO_REUSEADDR.
    """
    try:
        if address.is_unix:
            connect(address, PROBE_TIMEOUT).close()
            return False
        host = LOOPBACK if address.host in ("", "localhost") else address.host
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(closed))
            attempt.bind((host, address.port))
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True
