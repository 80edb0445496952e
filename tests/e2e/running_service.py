"""`swan serve` in its own process, for tests: free ports, output kept, ended by signal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import yaml

from service.launcher.ray_environment import free_ports

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 240.0  # a shared machine may be ten times slower than a quiet one


@dataclass
class RunningService:
    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    output_path: Path

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def output(self) -> str:
        return self.output_path.read_text()

    def wait_ready(self) -> None:
        self.wait_for("Ready after")

    def wait_greeted(self) -> None:
        """Until all that is printed at the start has been printed."""
        self.wait_for("Ctrl-C drains")

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while text not in self.output:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the service did not become ready:\n{self.output}")
            time.sleep(0.1)

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def named(self, prefix: str) -> list[psutil.Process]:
        """Its processes whose name begins so; those that end meanwhile are left out."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name().startswith(prefix):
                    found.append(process)
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout=START_LIMIT_S)


def start_service(folder: Path, *options: str, config: Path | None = None, **environment: str) -> RunningService:
    """Start it and return at once; output goes to a file in `folder`."""
    http_port, grpc_port = free_ports(2)
    command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1"]
    command += ["--port", str(http_port), "--grpc-port", str(grpc_port), *options]
    if config is not None:
        command += ["--config", str(config)]
    output = folder / f"serve-{http_port}.log"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            start_new_session=True,
        )
    return RunningService(process, http_port, grpc_port, output)


def echo_config(folder: Path) -> Path:
    """The shipped config with the echo replica instead of the models."""
    content = yaml.safe_load((ROOT / "deploy/base/serve-config.yaml").read_text())
    content["applications"][0]["import_path"] = "tests.e2e.echo_service:build_app"
    path = folder / "echo.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def get(service: RunningService, path: str, **options: object) -> httpx.Response:
    return httpx.get(f"http://{service.http}{path}", trust_env=False, timeout=60, **options)  # type: ignore[arg-type]
