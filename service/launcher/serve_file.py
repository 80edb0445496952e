"""The Ray Serve config file: read, checked for unknown keys, patched by the command line."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.config import InvalidSetting

FILE_NAME = "serve-config.yaml"
GENERATION_VARIABLE = "SERVE_GENERATION"


def default_path() -> Path:
    """The file shipped with the package, or that of the source tree."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / FILE_NAME
    return shipped if shipped.is_file() else package.parent / "deploy" / "base" / FILE_NAME


@dataclass(frozen=True, slots=True)
class ServeFile:
    """One application with one deployment. content: the parsed file."""

    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> ServeFile:
        """Raises InvalidSetting if the file is missing, not YAML, or not of one application with one deployment."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InvalidSetting(f"config: cannot read {path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise InvalidSetting(f"config: {path} is not valid YAML: {error}") from None
        if not isinstance(content, dict):
            raise InvalidSetting(f"config: {path}: expected a mapping, got {type(content).__name__}")
        for section, owner in (("applications", content), ("deployments", (content.get("applications") or [{}])[0])):
            if not isinstance(owner.get(section), list) or len(owner[section]) != 1:
                raise InvalidSetting(f"config: {path}: expected exactly one entry in `{section}`")
        return cls(content)

    @property
    def application(self) -> Mapping[str, Any]:
        application: Mapping[str, Any] = self.content["applications"][0]
        return application

    @property
    def deployment(self) -> Mapping[str, Any]:
        deployment: Mapping[str, Any] = self.application["deployments"][0]
        return deployment

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.application.get("args") or {}

    @property
    def host(self) -> str:
        return str(self.content.get("http_options", {}).get("host", "0.0.0.0"))

    @property
    def http_port(self) -> int:
        return int(self.content.get("http_options", {}).get("port", 8000))

    @property
    def grpc_port(self) -> int:
        return int(self.content.get("grpc_options", {}).get("port", 9000))

    @property
    def max_replicas(self) -> int:
        autoscaling = self.deployment.get("autoscaling_config")
        return int(autoscaling["max_replicas"] if autoscaling else self.deployment.get("num_replicas", 1))

    @property
    def first_replicas(self) -> int:
        """How many the service starts with."""
        autoscaling = self.deployment.get("autoscaling_config")
        if not autoscaling:
            return self.max_replicas
        return int(autoscaling.get("initial_replicas") or autoscaling.get("min_replicas", 1))

    def fitted(self, cores: int) -> ServeFile:
        """A copy whose autoscaling asks for no more replicas than `cores` can run beside the ingress."""
        content = copy.deepcopy(dict(self.content))
        autoscaling = content["applications"][0]["deployments"][0].get("autoscaling_config")
        if autoscaling:
            room = int((cores - 1) / self.cpus_per_replica)
            most = max(room, self.first_replicas, int(autoscaling.get("min_replicas", 1)))
            autoscaling["max_replicas"] = min(most, int(autoscaling["max_replicas"]))
        return ServeFile(content)

    @property
    def cpus_per_replica(self) -> float:
        return float(self.deployment.get("ray_actor_options", {}).get("num_cpus", 1))

    def of_generation(self, generation: int) -> ServeFile:
        """A copy that Ray Serve takes for a new version: nothing differs but a marker that replicas do not read."""
        content = copy.deepcopy(dict(self.content))
        options = content["applications"][0]["deployments"][0].setdefault("ray_actor_options", {})
        environment = options.setdefault("runtime_env", {}).setdefault("env_vars", {})
        environment[GENERATION_VARIABLE] = str(generation)
        return ServeFile(content)

    def patched(
        self,
        *,
        host: str | None = None,
        http_port: int | None = None,
        grpc_port: int | None = None,
        replicas: int | None = None,
        threads: int | None = None,
        scaling: str | None = None,
    ) -> ServeFile:
        """A copy with what the command line says; a fixed number of replicas turns autoscaling off.

        scaling: `requests` = Ray Serve's own policy instead of the file's; `demand` = as the file says.
        """
        content = copy.deepcopy(dict(self.content))
        http, grpc = content.setdefault("http_options", {}), content.setdefault("grpc_options", {})
        deployment = content["applications"][0]["deployments"][0]
        if host is not None:
            http["host"] = host
        if http_port is not None:
            http["port"] = http_port
        if grpc_port is not None:
            grpc["port"] = grpc_port
        if replicas is not None:
            deployment.pop("autoscaling_config", None)
            deployment["num_replicas"] = replicas
        if scaling == "requests":
            deployment.get("autoscaling_config", {}).pop("policy", None)
        if threads is not None:
            deployment.setdefault("ray_actor_options", {})["num_cpus"] = threads
        return ServeFile(content)
