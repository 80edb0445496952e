"""Rules and dashboards: they parse, do what they say on series made for it, and name only metrics that exist."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tests.deploy.manifests import DEPLOY

pytestmark = pytest.mark.deploy
MONITORING = DEPLOY / "components" / "monitoring"
SWAN_METRIC = re.compile(r"\bswan_[a-z0-9_]+\b")


def rule_groups() -> dict[str, Any]:
    document = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text(encoding="utf-8"))
    return {"groups": document["spec"]["groups"]}


def dashboard_queries() -> list[str]:
    boards = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((MONITORING / "dashboards").glob("*.json"))
    ]
    return [target["expr"] for board in boards for panel in board["panels"] for target in panel["targets"]]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("promtool")
    if binary is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    return subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(rule_groups()), encoding="utf-8")
    result = promtool("check", "rules", str(rules))
    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_fire_and_stay_quiet_as_written(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rule_groups()), encoding="utf-8")
    shutil.copy(Path(__file__).with_name("rules_test.yml"), tmp_path / "rules_test.yml")
    result = promtool("test", "rules", str(tmp_path / "rules_test.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


def script(path: Path) -> Any:
    """A script of deploy/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_prometheus_without_the_operator_has_the_same_rules() -> None:
    rules = script(DEPLOY / "local" / "build_rules.py").rules()
    assert (DEPLOY / "local" / "rules.yml").read_text(encoding="utf-8") == rules


def test_dashboards_are_what_their_builder_writes() -> None:
    builder = script(MONITORING / "build_dashboards.py")
    for name in builder.DASHBOARDS:
        assert (MONITORING / "dashboards" / f"{name}.json").read_text(encoding="utf-8") == builder.dashboard(name), name


@pytest.mark.parametrize("query", dashboard_queries())
def test_dashboard_queries_are_promql(query: str) -> None:
    promql_parser.parse(query.replace("$model", ".*"))


def test_the_local_prometheus_config_is_accepted() -> None:
    result = promtool("check", "config", "--syntax-only", str(DEPLOY / "local" / "prometheus.yml"))
    assert result.returncode == 0, result.stdout + result.stderr


def declared_metrics() -> set[str]:
    """Every series name that service/telemetry/metrics.py can expose."""
    from prometheus_client import CollectorRegistry

    from service.telemetry.metrics import Metrics

    registry = CollectorRegistry()
    Metrics(registry)
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "info": ("_info",)}
    return {family.name + suffix for family in registry.collect() for suffix in suffixes[family.type]}


def test_rules_and_dashboards_name_only_metrics_that_the_service_declares() -> None:
    rules = [rule["expr"] for group in rule_groups()["groups"] for rule in group["rules"]]
    named = {name for text in [*rules, *dashboard_queries()] for name in SWAN_METRIC.findall(text)}
    recorded = {
        rule["record"].split(":")[1] for g in rule_groups()["groups"] for rule in g["rules"] if "record" in rule
    }
    assert named - declared_metrics() - recorded == set()
