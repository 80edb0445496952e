"""A private Ray with Ray Serve in it, as children of this process: start, deploy, wait, stop, leave nothing."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from service.launcher.preflight import CannotStart
from service.launcher.serve_file import ServeFile

OBJECT_STORE_BYTES = 80 << 20  # nothing travels through it: requests are answered where they arrive
PROXY_START_TIMEOUT_S = 30.0
READINESS_TIMEOUT_S = 3.0
POLL_S = 0.05


class ProxyFailed(CannotStart):
    """The ingress proxy did not come up."""


class StopRequested(Exception):
    """A signal arrived while starting."""


class Cluster:
    """One start and one stop. `stopping` is asked between the steps of a start."""

    def __init__(self, directory: Path, environment: Mapping[str, str], stopping: Callable[[], bool]) -> None:
        self._directory = directory
        self._stopping = stopping
        self._client: Any = None
        self._proxies_ready: list[Any] = []
        os.environ.update(environment)

    def start_ray(self, cpus: float) -> None:
        import ray

        try:
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                _temp_dir=str(self._directory / "ray"),
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="ERROR",
                namespace="serve",
            )
        except Exception as error:
            self._check_stop()
            raise CannotStart(f"Ray did not start: {_first_line(error)}") from error
        self._check_stop()

    def start_serve(self, file: ServeFile) -> None:
        """Start the ingress and deploy, so that replicas load models while the ingress comes up.

        Raises ProxyFailed if the ingress cannot be started, CannotStart for a config file that Ray Serve refuses.
        """
        # NOTE: what `serve_start` consists of, without its wait for the proxies before anything can be deployed
        from ray.serve._private.api import _create_controller_and_proxy_refs
        from ray.serve._private.client import ServeControllerClient
        from ray.serve.config import ControllerOptions
        from ray.serve.schema import ServeDeploySchema

        schema = parse_schema(file, ServeDeploySchema)
        try:
            controller, self._proxies_ready = _create_controller_and_proxy_refs(
                http_options={**dict(file.content.get("http_options", {})), "location": "EveryNode"},
                grpc_options=dict(file.content.get("grpc_options", {})),
                global_logging_config=schema.logging_config,
                global_tracing_config=None,
                controller_options=ControllerOptions(),
                proxy_location=None,
            )
        except Exception as error:
            self._check_stop()
            raise ProxyFailed(f"the ingress proxy did not start: {_cause(str(error))}") from error
        self._client = ServeControllerClient(controller)
        self._check_stop()
        self._client.deploy_apps(schema)

    def wait_until_listening(self) -> None:
        """Return once the ingress has taken its ports. Raises ProxyFailed."""
        import ray

        try:
            ray.get(self._proxies_ready, timeout=PROXY_START_TIMEOUT_S)
        except Exception as error:
            self._check_stop()
            raise ProxyFailed(f"the ingress proxy did not start: {_cause(str(error))}") from error
        self._check_stop()

    def wait_until_running(self, application: str, meanwhile: Callable[[], None]) -> None:
        """Return once every replica is up. Raises CannotStart with the replica's own words if one cannot start.

        meanwhile: called again and again.
        """
        while True:
            self._check_stop()
            meanwhile()
            status = self._client.get_serve_status(application).app_status
            if status.status == "RUNNING":
                return
            if status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise CannotStart(f"a replica does not start: {_cause(status.message)}")
            time.sleep(POLL_S)

    def wait_until_ready(self, url: str) -> None:
        """Return once the ingress answers ready: the proxy learns of new replicas a moment after they run."""
        deadline = time.monotonic() + PROXY_START_TIMEOUT_S
        with httpx.Client(trust_env=False, timeout=5.0) as client:
            while time.monotonic() < deadline:
                self._check_stop()
                try:
                    if client.get(f"{url}/v2/health/ready").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(POLL_S)
        raise ProxyFailed(f"the ingress proxy does not answer at {url}")

    def roll(self, file: ServeFile) -> None:
        """Deploy the file anew; replicas whose actor options changed are replaced while the others answer."""
        from ray.serve.schema import ServeDeploySchema

        self._client.deploy_apps(parse_schema(file, ServeDeploySchema))
        self.wait_until_running(str(file.application["name"]), lambda: None)

    def drain(self, application: str, url: str) -> None:
        """Turn not ready, then end the replicas once they have answered what is in flight.

        Load balancers and clients that look at readiness, over HTTP or gRPC, leave before anything is taken away. Takes
        the deployment's graceful_shutdown_timeout_s at most, and READINESS_TIMEOUT_S before.
        """
        import ray

        from service.host.coordinator import coordinator_actor

        try:
            ray.get(coordinator_actor().publish.remote({"draining": True}), timeout=READINESS_TIMEOUT_S)
            self._wait_until_not_ready(url)
        except Exception as error:  # whatever is wrong with it, the replicas still drain
            logging.getLogger(__name__).warning("readiness could not be turned off: %s", _first_line(error))
        self._client.delete_apps([application], blocking=True)

    def _wait_until_not_ready(self, url: str) -> None:
        deadline = time.monotonic() + READINESS_TIMEOUT_S
        with httpx.Client(trust_env=False, timeout=READINESS_TIMEOUT_S) as client:
            while time.monotonic() < deadline and client.get(f"{url}/v2/health/ready").status_code == 200:
                time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop Serve and Ray; safe at any point of a start."""
        ray = sys.modules.get("ray")
        if ray is not None and ray.is_initialized():
            if self._client is not None:
                self._client.shutdown(timeout_s=10.0)
            ray.shutdown()

    def _check_stop(self) -> None:
        if self._stopping():
            raise StopRequested


def parse_schema(file: ServeFile, schema: Any) -> Any:
    """The file as Ray Serve's schema. Ray accepts unknown keys silently, so they are refused here."""
    sections = {
        "": (file.content, schema),
        "applications[0].": (file.application, _item_type(schema, "applications")),
    }
    sections["applications[0].deployments[0]."] = (
        file.deployment,
        _item_type(sections["applications[0]."][1], "deployments"),
    )
    for prefix, (content, model) in sections.items():
        unknown = sorted(set(content) - set(model.model_fields))
        if unknown:
            known = ", ".join(sorted(model.model_fields))
            raise CannotStart(f"config: {prefix}{unknown[0]}: unknown key; known: {known}")
    try:
        return schema.model_validate(file.content)
    except ValueError as error:
        raise CannotStart(f"config: {_first_line(error)}") from None


def _item_type(schema: Any, field: str) -> Any:
    return schema.model_fields[field].annotation.__args__[0]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _cause(message: str) -> str:
    """The last line of a replica's traceback: the exception itself."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
