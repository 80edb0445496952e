"""What `swan serve` was asked to start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.config import Settings
from service.launcher.serve_file import ServeFile


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. overrides: settings from the command line. proxy: auto | haproxy | default,
    or none: one replica in this process, without Ray."""

    file: ServeFile
    settings: Settings
    overrides: Mapping[str, str]
    proxy: str = "auto"

    @property
    def host(self) -> str:
        """The address to reach the service at from this machine."""
        host = self.file.host
        reached = "127.0.0.1" if host in ("0.0.0.0", "::") else host
        return f"[{reached}]" if ":" in reached else reached

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.file.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"{self.host}:{self.file.grpc_port}"
