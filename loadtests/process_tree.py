"""CPU time and memory of a process with all its descendants, and its end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

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
    total = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def memory_mib(pid: int) -> float:
    """Resident memory of the family, shared pages split among those who share them (PSS) where the kernel tells."""
    total = 0.0
    for process in family(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20


def resident_mib(processes: Iterable[psutil.Process]) -> float:
    """Sum of their resident sizes; a page that several share counts in each. A hundredth of what PSS costs."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20


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
