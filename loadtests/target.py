"""The service under test: one that runs already, or one started on free ports. Its admin plane sets the policy."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.launcher.ray_environment import FIRST_PORT, is_free

START_TIMEOUT_S = 180.0
NEIGHBOURS = 3  # a peer takes the two ports behind its own as well
PORTS = range(4_000, FIRST_PORT - NEIGHBOURS)  # below the blocks of the replicas


class TargetError(RuntimeError):
    """The service cannot be reached, started or controlled; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service answers. headers: sent with every request (the key); pid: of its launcher, on this machine."""

    url: str
    grpc: str
    headers: Mapping[str, str] = field(default_factory=dict)
    pid: int | None = None

    @property
    def controllable(self) -> bool:
        """Whether a key is known that its admin plane may take."""
        return bool(self.headers)

    def get(self, path: str) -> Any:
        try:
            response = httpx.get(self.url + path, headers=dict(self.headers), timeout=30)
        except httpx.HTTPError as error:
            raise TargetError(f"no service answers at {self.url} ({error}); start one with `swan serve`") from None
        if response.status_code != 200:
            raise TargetError(f"GET {path}: {response.status_code} {response.text[:200]}")
        return response.json() if response.content else None

    def control(self, setpoint: Mapping[str, Any]) -> None:
        """Deliver a set-point to every replica through the admin route."""
        try:
            # NOTE: after a flood the service first answers what has queued up in front of it
            response = httpx.post(
                self.url + "/v2/control", json=dict(setpoint), headers=dict(self.headers), timeout=120
            )
        except httpx.HTTPError as error:
            raise TargetError(f"the admin plane did not take {dict(setpoint)}: {type(error).__name__}") from None
        if response.status_code != 200:
            raise TargetError(f"the admin plane refused {setpoint}: {response.status_code} {response.text[:200]}")


def free_port() -> int:
    """A port that is free with the two behind it, and below those that the system gives to clients' sockets.

    One of those may be gone again before a server that takes seconds to start binds it. Raises OSError.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if all(map(is_free, range(port, port + NEIGHBOURS))):
            return port
    raise OSError(f"no free ports between {PORTS.start} and {PORTS.stop}")


@contextlib.contextmanager
def started(folder: Path, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Iterator[Target]:
    """`swan serve` on free ports, with an admin plane only this test has the key of; stopped and reaped at the end."""

    from service.security.keys import GRANTED, KeyRing, create

    port, grpc_port = free_port(), free_port()
    credential, key = create("loadtest", GRANTED)
    keys = folder / "keys.json"
    KeyRing([key]).save(keys)
    command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--grpc-port", str(grpc_port), *arguments]
    environment = {**os.environ, "SWAN_ADMIN_ENABLED": "1", "SWAN_API_KEYS_FILE": str(keys), **(env or {})}
    log = (folder / "service.telemetry.log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
    target = Target(
        f"http://127.0.0.1:{port}", f"127.0.0.1:{grpc_port}", {"authorization": f"Bearer {credential}"}, process.pid
    )
    try:
        wait_until_ready(target, process, folder / "service.telemetry.log")
        yield target
    finally:
        stop(process)
        log.close()


def wait_until_ready(target: Target, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise TargetError(f"the service ended with {process.returncode}: {log.read_text(errors='replace')[-800:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{target.url}/v2/health/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.1)
    raise TargetError(
        f"the service was not ready after {START_TIMEOUT_S:.0f} s: {log.read_text(errors='replace')[-800:]}"
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM drains; a service that has not gone after a minute is killed with everything it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
