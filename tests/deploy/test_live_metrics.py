"""The running service, scraped by a real Prometheus: what rules and dashboards name is there."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.app import start_replica
from service.config import Settings
from service.host.coordinator import Coordinator
from service.host.standalone import serve
from service.launcher.ray_environment import free_ports
from tests.deploy.manifests import DEPLOY
from tests.deploy.test_monitoring import SWAN_METRIC, dashboard_queries, rule_groups

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]
MODEL = "fashion-mlp"


def body(**parameters: Any) -> dict[str, Any]:
    tensor = {"name": "INPUT", "datatype": "FP32", "shape": [1, 784], "data": [0.5] * 784}
    return {"inputs": [tensor], "parameters": parameters}


@asynccontextmanager
async def answering(profiles: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A replica with a shipped model that has answered one request and refused another."""
    settings = Settings.load({"models": (MODEL,), "profile_cache_dir": profiles})
    replica = await start_replica(settings, Coordinator())
    async with (
        serve(replica.app) as address,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{address.http_port}", trust_env=False, timeout=60) as client,
    ):
        path = f"/v2/models/{MODEL}/infer"
        assert (await client.post(path, json=body(deadline_policy="best_effort"))).status_code == 200
        refused = await client.post(path, json=body(timeout=1, deadline_policy="reject"))
        assert refused.status_code in (429, 503, 504), refused.text
        yield client
    await replica.close()


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """deploy/local's Prometheus as a process, told of another target and port; yields its address."""
    binary = shutil.which("prometheus")
    if binary is None:
        pytest.skip("prometheus is not installed (Debian package prometheus)")
    config = yaml.safe_load((DEPLOY / "local" / "prometheus.yml").read_text(encoding="utf-8"))
    assert [job["static_configs"] for job in config["scrape_configs"]] == [[{"targets": ["127.0.0.1:8000"]}]]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    config["global"]["scrape_interval"] = "1s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copy(DEPLOY / "local" / "rules.yml", folder)
    (port,) = free_ports(1)
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [binary, *options, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


async def query(client: httpx.AsyncClient, expression: str) -> list[Any]:
    answer = await client.get("/api/v1/query", params={"query": expression})
    assert answer.status_code == 200, f"{expression}: {answer.text}"
    found: list[Any] = answer.json()["data"]["result"]
    return found


async def is_up(client: httpx.AsyncClient) -> bool:
    """Whether Prometheus answers and has scraped the service."""
    try:
        if (await client.get("/-/ready")).status_code != 200:
            return False
    except httpx.TransportError:
        return False
    found = await query(client, 'up{job="swan-serve"}')
    return [one["value"][1] for one in found] == ["1"]


def named() -> set[str]:
    """Every series of the service that a rule or a dashboard names."""
    rules = [rule for group in rule_groups()["groups"] for rule in group["rules"]]
    recorded = {rule["record"].split(":")[1] for rule in rules if "record" in rule}
    texts = [*(rule["expr"] for rule in rules), *dashboard_queries()]
    return {name for text in texts for name in SWAN_METRIC.findall(text)} - recorded


async def test_what_rules_and_dashboards_name_is_scraped(tmp_path: Path) -> None:
    async with answering(tmp_path / "profiles") as service:
        with prometheus(str(service.base_url).removeprefix("http://").rstrip("/"), tmp_path) as address:
            async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=60) as client:
                while not await is_up(client):  # the test's own timeout ends it
                    await asyncio.sleep(0.1)
                missing = {name for name in named() if not await query(client, f'{{__name__="{name}"}}')}
                assert missing == set()
                for expression in dashboard_queries():
                    await query(client, expression.replace("$model", ".*"))
                loaded = (await client.get("/api/v1/rules")).json()["data"]["groups"]
    assert {group["name"] for group in loaded} == {group["name"] for group in rule_groups()["groups"]}
