"""CPU time and memory of a process with all its descendants, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable

import psutil


def family(pid: int) -> list[psutil.Process]:
    """The process, its descendants, and whoever shares its session: Ray's daemons leave the tree, not the session."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        members = {process.pid: process for process in [root, *root.children(recursive=True)]}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == pid:
                    members[process.pid] = process
        return list(members.values())
    return []


def cpu_seconds(pid: int) -> float:
    """User and system time of the family so far, children it has reaped included."""
    return _total(family(pid), _cpu_seconds)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def memory_mib(pid: int) -> float:
    """Resident memory of the family, shared pages split among those who share them (PSS) where the kernel tells."""
    return _total(family(pid), lambda process: process.memory_full_info().pss) / 2**20


def resident_mib(processes: Iterable[psutil.Process]) -> float:
    """Sum of their resident sizes; a page that several share counts in each. A hundredth of what PSS costs."""
    return _total(processes, lambda process: process.memory_info().rss) / 2**20


def _total(processes: Iterable[psutil.Process], of: Callable[[psutil.Process], float]) -> float:
    """Over those that still run and may be asked."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += of(process)
    return total


def end(pid: int, patience_s: float = 40.0) -> None:
    """SIGTERM to the process, then SIGKILL to what is left of its family."""
    members = family(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    _, alive = psutil.wait_procs(members, timeout=patience_s)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
