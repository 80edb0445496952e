"""Runs the service in a child process of its own session: signals reach the service alone, and nothing survives it.

Without it a Ctrl-C or a SIGTERM to the process group would end Ray under requests in flight, and a crash of Ray,
which takes its driver with it, would leave processes behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

import psutil

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_S = 3.0
CRASHED = 70  # EX_SOFTWARE


def supervise(run: Callable[[], int]) -> int:
    """Fork, run `run` in the child, pass SIGINT, SIGTERM and SIGHUP on, end what it left. Returns its exit code.

    NOTE: forks, so call it before any thread is started. A child that was killed by a signal gives CRASHED.
    """
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.stdout.flush()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        _become(run, parent)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _forward_to(child))
    try:
        _, status = os.waitpid(child, 0)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else CRASHED
    finally:
        end_children()


def _become(run: Callable[[], int], parent: int) -> None:
    """The child's life; never returns. os._exit: the parent's exit handlers are not the child's."""
    code = CRASHED
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:  # else the parent died before it could be watched
            code = run()
    except BaseException:
        traceback.print_exc()  # to the log file that the crash report names
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _forward_to(child: int) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    return forward


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def end_children(grace_s: float = GRACE_S) -> None:
    """End all descendants of this process: asked first, killed after `grace_s`."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        _signal(child.terminate)
    _, alive = psutil.wait_procs(children, timeout=grace_s)
    for child in alive:
        _signal(child.kill)
    psutil.wait_procs(alive, timeout=grace_s)


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        send()
