"""Containers of the image as KubeRay's pods run them: uid 1000, read-only root, no capability, memory limit, runc."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

IMAGE = os.environ.get("SWAN_IMAGE", "localhost/swan-serve:test")
NEEDED = ("podman", "runc", "buildah")
LIMIT_S = 480.0  # a shared machine may be ten times slower than a quiet one


def require_container_tools() -> None:
    """Skip where containers cannot be run, and say why."""
    if os.geteuid() != 0:
        pytest.skip("containers with a memory limit on a bridge need root")
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    found = subprocess.run(["podman", "image", "exists", IMAGE], check=False, capture_output=True)
    if found.returncode != 0:
        pytest.skip(f"no image {IMAGE}: make image builds it")


def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    runtime = str(shutil.which("runc"))
    command = ["podman", "--cgroup-manager=cgroupfs", "--events-backend=file", "--runtime", runtime, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0 or not check, f"{' '.join(arguments)}: {done.stderr}"
    return done


@dataclass(frozen=True)
class Container:
    """A container that runs, or has ended and is not yet removed."""

    id: str
    started: float

    @property
    def ip(self) -> str:
        return str(self.inspect()["NetworkSettings"]["Networks"]["podman"]["IPAddress"])

    @property
    def exit_code(self) -> int:
        return int(podman("wait", self.id).stdout)

    @property
    def logs(self) -> str:
        done = podman("logs", self.id, check=False)
        return done.stdout + done.stderr

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(podman("inspect", self.id).stdout)[0]
        return found

    def exec(self, *command: str, check: bool = True, environment: Mapping[str, str] | None = None) -> str:
        """Standard output of a command in the container."""
        options = [f"--env={key}={value}" for key, value in (environment or {}).items()]
        return podman("exec", *options, self.id, *command, check=check).stdout

    def succeeds(self, *command: str) -> bool:
        return podman("exec", self.id, *command, check=False).returncode == 0

    def signal(self, name: str) -> None:
        podman("kill", "--signal", name, self.id)

    def wait_until(self, holds: Callable[[], bool], what: str) -> float:
        """Seconds since the start until `holds`; fails with the container's output if it ends or does not get there."""
        while not holds():
            running = self.inspect()["State"]["Running"]
            if not running or time.monotonic() - self.started > LIMIT_S:
                pytest.fail(f"{what}: not reached; running: {running}\n{self.logs[-6000:]}")
            time.sleep(0.1)
        return time.monotonic() - self.started


@contextmanager
def run(*command: str, memory: str, options: Sequence[str] = ()) -> Iterator[Container]:
    """A container of the image for as long as the context is open. command: replaces the entrypoint."""
    hardened = ["--read-only", "--tmpfs=/tmp:rw,size=2g,mode=1777", "--tmpfs=/var/run/swan-metrics:rw,mode=1777"]
    hardened += ["--cap-drop=ALL", "--security-opt=no-new-privileges", f"--memory={memory}", "--shm-size=1g"]
    # the defaults of podman are above what a container without CAP_SYS_RESOURCE may ask for
    limits = ["--ulimit=nofile=20000:20000", "--ulimit=nproc=30000:30000"]
    entrypoint = [f"--entrypoint={json.dumps([command[0]])}"] if command else []
    started = time.monotonic()
    arguments = [*hardened, *limits, "--network=podman", "--no-healthcheck", *entrypoint, *options]
    made = podman("run", "--detach", *arguments, IMAGE, *command[1:])
    container = Container(made.stdout.strip(), started)
    try:
        yield container
    finally:
        podman("rm", "--force", "--time", "0", container.id)
