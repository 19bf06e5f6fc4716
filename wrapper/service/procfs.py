"""What the kernel says of processes: /proc (proc(5)), and what their cgroup counts."""

from __future__ import annotations

import os
import re
import socket
from collections import namedtuple

from wrapper.settings import address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wrapper.settings.address import Address

TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc/[pid]/stat
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)
# The first that exists counts: cgroup version 2 as a container sees it, then version 1.
MEMORY_EVENTS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
MEMORY_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
CPU_LIMITS = (("/sys/fs/cgroup/cpu.max",),
              ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
UNLIMITED = 1 << 60  # bytes: what version 1 says where there is no limit lies above
# As Docker, podman, containerd and CRI-O name cgroups, and the file that the first two mount; the layers of an image,
# and the containers of a host that is looked at from outside, have such numbers too. Start-up: not compiled here.
CONTAINER_ID = (r"(?:/docker/|docker-|libpod-|cri-containerd-|crio-|/pod[0-9a-f-]{36}/)([0-9a-f]{64})"
                r"|containers/([0-9a-f]{64})/(?:userdata/)?hostname /etc/hostname ")


class Stat(namedtuple("Stat", "state parent group started cpu memory")):
    """Facts about a process: a letter, two pids, and clock ticks since boot, which tell it from a later one of its pid.

    `cpu`: clock ticks of its own and of the children it has waited for; `memory`: its resident pages.
    """

    __slots__ = ()
    state: str
    parent: int
    group: int
    started: int
    cpu: int
    memory: int


GONE = Stat("", 0, 0, 0, 0, 0)


def stat(pid: int) -> Stat:
    """Facts about one process, `GONE` where it is gone or hidden. Raises: OSError where no descriptor can be had."""
    return _stat(pid) if _is_ours() else GONE


def _stat(pid: int) -> Stat:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # they follow the name, which may hold anything
        return Stat(fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[19]),
                    sum(map(int, fields[11:15])), int(fields[21]))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return GONE


def _is_ours() -> bool:
    """False where /proc is another PID namespace's, whose numbers mean other processes (pid_namespaces(7))."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())
    except OSError:
        return False


def processes() -> dict[int, Stat]:
    """Every process of this pid namespace that can be seen, by pid. Raises: OSError, see `stat`."""
    if not _is_ours():
        return {}
    found = ((int(entry), _stat(int(entry))) for entry in os.listdir("/proc") if entry.isdigit())
    return {pid: known for pid, known in found if known is not GONE}


def with_descendants(table: Mapping[int, Stat], roots: Iterable[int]) -> set[int]:
    """`roots`, their children, and so on."""
    family, waiting = set(roots), list(roots)
    while waiting:
        parent = waiting.pop()
        children = {pid for pid, known in table.items() if known.parent == parent} - family
        family |= children
        waiting += children
    return family


def usage(leaders: Iterable[int], table: Mapping[int, Stat] | None = None) -> tuple[float, int]:
    """CPU seconds and resident bytes of these processes, their groups and all their descendants.

    A page that several of them share is counted for each. `table`: what `processes` has just found, where the caller
    asks for several. Raises: OSError, see `stat`.
    """
    chosen, table = set(leaders), processes() if table is None else table
    roots = {pid for pid, known in table.items() if pid in chosen or known.group in chosen}
    known = [table[pid] for pid in with_descendants(table, roots)]
    return sum(one.cpu for one in known) / TICKS, sum(one.memory for one in known) * PAGE_BYTES


def has_variable(pid: int, name: bytes) -> bool:
    """True where the process was started with this environment variable, as far as can be seen."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(entry.startswith(name + b"=") for entry in file.read().split(b"\0"))
    except OSError:
        return False


def listening(pids: Iterable[int]) -> list[Address]:
    """Where these processes listen for TCP, as far as can be seen."""
    found: set[Address] = set()
    for pid in pids if _is_ours() else ():
        sockets = _sockets(pid)
        for name, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
            found.update(_listeners(f"/proc/{pid}/net/{name}", family, sockets))
    return sorted(found)


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    inodes = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            target = os.readlink(entry.path)
            if target.startswith("socket:["):
                inodes.add(target[len("socket:["):-1])
    except OSError:
        pass  # gone, or not ours to look into
    return inodes


def _listeners(path: str, family: int, inodes: set[str]) -> set[Address]:
    try:
        with open(path) as file:
            rows = [line.split() for line in file][1:]
    except OSError:
        return set()
    return {_address(row[1], family) for row in rows if row[3] == LISTEN and row[9] in inodes}


def _address(text: str, family: int) -> Address:
    """`0100007F:1F90` is 127.0.0.1:8080: words of 32 bits in the machine's byte order."""
    digits, _, port = text.partition(":")
    words = [bytes.fromhex(digits[start:start + 8])[::-1] for start in range(0, len(digits), 8)]
    return address.tcp(socket.inet_ntop(family, b"".join(words)), int(port, 16))


def memory_kills() -> int:
    """How many processes of this container the kernel has killed for memory; 0 where it does not say."""
    lines = next(_texts(MEMORY_EVENTS), "").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def memory_limit() -> int | None:
    """Bytes that this container may use; None where it may use all, or its cgroup does not say."""
    text = next(_texts(MEMORY_LIMITS), "").strip()
    return int(text) if text.isdigit() and int(text) < UNLIMITED else None


def cpu_limit() -> float | None:
    """Cores that this container may use at a time; None where it may use all, or its cgroup does not say."""
    for paths in CPU_LIMITS:
        numbers = " ".join(_texts(paths)).split()
        if len(numbers) == 2:
            quota, period = numbers
            return int(quota) / int(period) if quota.isdigit() else None
    return None


def container_id(paths: Iterable[str] = ("/proc/self/cgroup", "/proc/self/mountinfo")) -> str | None:
    """The first 12 digits of this container's id, as `docker ps` and `podman ps` show it; None where nothing tells."""
    for text in _texts(paths):
        if found := re.search(CONTAINER_ID, text):
            return (found[1] or found[2])[:12]
    return None


def _texts(paths: Iterable[str]) -> Iterator[str]:
    """The content of each of these files that can be read."""
    for path in paths:
        try:
            with open(path) as file:
                text = file.read()
        except OSError:
            continue
        yield text


def adopted() -> list[int]:
    """The processes of the main thread; all of ours where the kernel keeps no lists (CONFIG_PROC_CHILDREN)."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return [pid for pid, known in processes().items() if known.parent == os.getpid()]
