"""Every overlay renders, validates strictly, passes the operator's rules; mutations of it do not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.launcher.ray_environment import ray_environment
from tests.deploy.manifests import DEPLOY, ROOT, Document, only, pod_templates, render, schema_errors
from tests.deploy.operator_rules import pdb_errors, rayservice_errors

pytestmark = pytest.mark.deploy
OVERLAYS = sorted(path for path in (DEPLOY / "overlays").iterdir() if path.is_dir())
COMPONENTS = sorted(path for path in (DEPLOY / "components").iterdir() if path.is_dir())


def operator_errors(document: Document) -> list[str]:
    rules = {"RayService": rayservice_errors, "PodDisruptionBudget": pdb_errors}
    return rules[document["kind"]](document) if document["kind"] in rules else []


@pytest.fixture(params=OVERLAYS, ids=lambda path: path.name)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    return render(request.param)


def test_every_document_is_what_a_strict_api_server_accepts(documents: list[Document]) -> None:
    assert {(d["kind"], d["metadata"]["name"]): e for d in documents if (e := schema_errors(d))} == {}


def test_the_operator_accepts_every_document(documents: list[Document]) -> None:
    assert {d["metadata"]["name"]: e for d in documents if (e := operator_errors(d))} == {}


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda path: path.name)
def test_every_component_can_be_added_to_an_overlay(component: Path, tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    relative = {name: _relative(overlay, DEPLOY / name) for name in ("base", f"components/{component.name}")}
    content = {"resources": [relative["base"]], "components": [relative[f"components/{component.name}"]]}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    documents = render(overlay)
    problems = {d["metadata"]["name"]: schema_errors(d) + operator_errors(d) for d in documents}
    assert {name: errors for name, errors in problems.items() if errors} == {}


def _relative(start: Path, target: Path) -> str:
    return str(Path(*[".."] * (len(start.resolve().parts) - 1)) / target.resolve().relative_to("/"))


def _set(path: str, value: Any) -> Callable[[Document], None]:
    def apply(document: Document) -> None:
        *parents, last = path.split("/")
        node: Any = document
        for key in parents:
            node = node[int(key)] if key.isdigit() else node[key]
        if value is None:
            del node[last]
        else:
            node[last] = value

    return apply


MUTATIONS = {
    "typo in a field": ("RayService", _set("spec/rayClusterConfig/headGroupSpec/rayStartParam", {})),
    "typo inside a pod": (
        "RayService",
        _set("spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0/imagePullPolicie", "Always"),
    ),
    "wrong type": ("RayService", _set("spec/rayClusterConfig/workerGroupSpecs/0/replicas", "two")),
    "number where Ray wants a string": (
        "RayService",
        _set("spec/rayClusterConfig/headGroupSpec/rayStartParams/num-cpus", 0),
    ),
    "bad enum": ("RayService", _set("spec/rayClusterConfig/autoscalerOptions/upscalingMode", "Sometimes")),
    "an upgrade type of Deployments": ("RayService", _set("spec/upgradeStrategy/type", "RollingUpdate")),
    "min above max": ("RayService", _set("spec/rayClusterConfig/workerGroupSpecs/0/minReplicas", 99)),
    "no name": ("RayService", _set("metadata/name", None)),
    "name too long": ("RayService", _set("metadata/name", "s" * 48)),
    "percentage PDB": ("PodDisruptionBudget", _set("spec/minAvailable", "50%")),
    "maxUnavailable PDB": ("PodDisruptionBudget", _set("spec/maxUnavailable", 1)),
    "a word for a list": ("NetworkPolicy", _set("spec/policyTypes", "Ingress")),
    "unknown key in a policy": ("NetworkPolicy", _set("spec/podSelektor", {})),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_broken_manifest_is_refused(mutation: str) -> None:
    kind, mutate = MUTATIONS[mutation]
    document = copy.deepcopy(next(d for d in render(DEPLOY / "overlays" / "prod") if d["kind"] == kind))
    assert schema_errors(document) + operator_errors(document) == []
    mutate(document)
    assert schema_errors(document) + operator_errors(document) != []


def test_pods_are_what_pod_security_restricted_admits(documents: list[Document]) -> None:
    rayservice = only(documents, "RayService")
    autoscaler = rayservice["spec"]["rayClusterConfig"]["autoscalerOptions"]["securityContext"]
    for name, group in pod_templates(rayservice):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in [*(c["securityContext"] for c in pod["containers"]), autoscaler]:
            assert container["allowPrivilegeEscalation"] is False, name
            assert container["readOnlyRootFilesystem"] is True, name
            assert container["capabilities"] == {"drop": ["ALL"]}, name


def test_memory_is_guaranteed_and_grace_outlasts_drain(documents: list[Document]) -> None:
    rayservice = only(documents, "RayService")
    environment = _ray_env(documents)
    drain_s = int(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
    for name, group in pod_templates(rayservice):
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"], name
        pre_stop_s = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
        assert pod["terminationGracePeriodSeconds"] >= pre_stop_s + drain_s + 15, name
        assert group["rayStartParams"]["object-store-memory"].isdigit(), name


def _ray_env(documents: list[Document]) -> dict[str, str]:
    return next(d["data"] for d in documents if d["kind"] == "ConfigMap" and "RAY_SERVE_ENABLE_HA_PROXY" in d["data"])


def test_pods_and_swan_serve_run_ray_alike(documents: list[Document], tmp_path: Path) -> None:
    """What `swan serve` sets for its own Ray is set in the pods, but for what is of one machine."""
    own = ray_environment(tmp_path, 8000, ha_proxy=True)
    local = {key for key in own if key.endswith(("_PORT", "_LOC", "_PATH", "_BASE", "_FILE", "_PERIOD_S", "_TARGET"))}
    local -= {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"}
    local |= {"RAY_AUTH_MODE", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_SERVE_LOG_TO_STDERR"}
    local |= {"RAY_SERVE_ENABLE_DIRECT_INGRESS"}  # HAProxy brings it
    pods = _ray_env(documents)
    assert {key: pods.get(key) for key in own.keys() - local} == {key: own[key] for key in own.keys() - local}


def test_ports_agree_everywhere(documents: list[Document]) -> None:
    rayservice = only(documents, "RayService")
    serve = yaml.safe_load(rayservice["spec"]["serveConfigV2"])
    ports = {"serve": serve["http_options"]["port"], "serve-grpc": serve["grpc_options"]["port"]}
    service = {port["name"]: port["port"] for port in rayservice["spec"]["serveService"]["spec"]["ports"]}
    assert service == ports
    for name, group in pod_templates(rayservice):
        declared = {p["name"]: p["containerPort"] for p in group["template"]["spec"]["containers"][0]["ports"]}
        assert ports.items() <= declared.items(), name
    allowed = {
        port["port"] for rule in only(documents, "NetworkPolicy")["spec"]["ingress"] for port in rule.get("ports", [])
    }
    assert set(ports.values()) <= allowed


def test_prometheus_meets_each_node_at_a_port_of_its_own() -> None:
    documents = render(DEPLOY / "overlays" / "prod")
    endpoints = {end["port"] for end in only(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]}
    worker = dict(pod_templates(only(documents, "RayService")))["cpu"]["template"]["spec"]
    ports = {port["name"]: port["containerPort"] for port in worker["containers"][0]["ports"]}
    environment = _ray_env(documents)
    assert endpoints == {"swan-metrics", "metrics"} <= ports.keys()
    assert int(environment["SWAN_METRICS_PORT"]) == ports["swan-metrics"]
    mounted = {mount["mountPath"] for mount in worker["containers"][0]["volumeMounts"]}
    assert environment["PROMETHEUS_MULTIPROC_DIR"] in mounted
    scraped = {ports[name] for name in endpoints}
    rules = only(documents, "NetworkPolicy")["spec"]["ingress"]
    assert any(scraped <= {port["port"] for port in rule.get("ports", [])} for rule in rules)


def test_replicas_fit_the_workers(documents: list[Document]) -> None:
    """Each worker holds a replica, or it would never be Ready; the last worker that may come is not in vain."""
    group, deployment = _workers_and_deployment(documents)
    pod_cpus = int(group["rayStartParams"]["num-cpus"])
    assert pod_cpus == int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    per_worker = int(pod_cpus // deployment["ray_actor_options"]["num_cpus"])
    scaling = deployment["autoscaling_config"]
    assert group["minReplicas"] <= group["replicas"] <= scaling["min_replicas"]
    assert (group["maxReplicas"] - 1) * per_worker < scaling["max_replicas"] <= group["maxReplicas"] * per_worker


def test_production_survives_a_worker() -> None:
    documents = render(DEPLOY / "overlays" / "prod")
    group, deployment = _workers_and_deployment(documents)
    assert min(group["minReplicas"], deployment["autoscaling_config"]["min_replicas"]) >= 2
    spread = group["template"]["spec"]["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in spread] == ["kubernetes.io/hostname"]


def test_overlays_change_nothing_of_the_serve_config_but_its_scale(documents: list[Document]) -> None:
    base = yaml.safe_load((DEPLOY / "base" / "serve-config.yaml").read_text(encoding="utf-8"))
    embedded = yaml.safe_load(only(documents, "RayService")["spec"]["serveConfigV2"])
    for content in (base, embedded):
        scaling = content["applications"][0]["deployments"][0]["autoscaling_config"]
        assert isinstance(scaling.pop("min_replicas"), int) and isinstance(scaling.pop("max_replicas"), int)
    assert embedded == base


def _workers_and_deployment(documents: list[Document]) -> tuple[Document, Document]:
    spec = only(documents, "RayService")["spec"]
    serve = yaml.safe_load(spec["serveConfigV2"])
    return spec["rayClusterConfig"]["workerGroupSpecs"][0], serve["applications"][0]["deployments"][0]


def test_serve_replicas_are_reached_on_every_node(documents: list[Document]) -> None:
    serve = yaml.safe_load(only(documents, "RayService")["spec"]["serveConfigV2"])
    assert serve["proxy_location"] == "EveryNode"
    assert serve["http_options"]["host"] == "0.0.0.0"
    assert len(serve["applications"]) == 1  # gRPC clients send no application metadata


def test_ray_has_one_version_in_lock_and_manifests(documents: list[Document]) -> None:
    rayservice = only(documents, "RayService")
    lock = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    assert f"ray=={rayservice['spec']['rayClusterConfig']['rayVersion']} " in lock


def test_the_serve_config_has_only_keys_that_ray_serve_knows() -> None:
    from ray.serve.schema import ServeDeploySchema

    raw = yaml.safe_load((DEPLOY / "base" / "serve-config.yaml").read_text(encoding="utf-8"))
    parsed = ServeDeploySchema.model_validate(raw).model_dump(warnings=False)  # Ray marks unset fields in its own way
    assert _unknown_keys(raw, parsed) == []


def _unknown_keys(raw: Any, parsed: Any, where: str = "") -> list[str]:
    """Keys of the file that Ray's schema dropped: Ray accepts them silently. Free-form mappings are left alone."""
    if isinstance(raw, list) and isinstance(parsed, list):
        return [
            k for i, pair in enumerate(zip(raw, parsed, strict=False)) for k in _unknown_keys(*pair, f"{where}[{i}]")
        ]
    if (
        not isinstance(raw, dict)
        or not isinstance(parsed, dict)
        or where.endswith((".args", ".user_config", ".env_vars"))
    ):
        return []
    dropped = [f"{where}.{key}" for key in raw if key not in parsed]
    return dropped + [k for key in raw if key in parsed for k in _unknown_keys(raw[key], parsed[key], f"{where}.{key}")]
