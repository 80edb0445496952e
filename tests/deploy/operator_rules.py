"""The KubeRay operator's own checks that no CRD holds (utils/validation.go of v1.7), and the API's on PDBs."""

from __future__ import annotations

import re
from typing import Any

Document = dict[str, Any]
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
UPGRADE_TYPES = {"NewCluster", "NewClusterWithIncrementalUpgrade", "None"}
RESOURCE_PARAMS = {"num-cpus", "num-gpus", "memory", "resources"}


def rayservice_errors(document: Document) -> list[str]:
    """Messages the operator would put into the status (InvalidRayServiceSpec, InvalidRayClusterSpec)."""
    spec = document["spec"]
    cluster = spec["rayClusterConfig"]
    return _service_errors(document["metadata"].get("name", ""), spec, cluster) + _cluster_errors(cluster)


def _service_errors(name: str, spec: Document, cluster: Document) -> list[str]:
    errors = []
    if not DNS_1035.fullmatch(name) or len(name) > 47:
        errors.append(f"metadata.name {name!r}: DNS-1035 and at most 47 characters")
    upgrade = spec.get("upgradeStrategy", {})
    kind = upgrade.get("type", "NewCluster")
    if kind not in UPGRADE_TYPES:
        errors.append(f"upgradeStrategy.type {kind!r} is none of {sorted(UPGRADE_TYPES)}")
    if kind == "NewClusterWithIncrementalUpgrade":
        errors += _incremental_errors(upgrade.get("clusterUpgradeOptions"), cluster)
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        errors.append("rayClusterDeletionDelaySeconds is negative")
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        errors.append("headService.metadata.name must be unset")
    return errors


def _incremental_errors(options: Document | None, cluster: Document) -> list[str]:
    if not cluster.get("enableInTreeAutoscaling"):
        return ["incremental upgrade needs enableInTreeAutoscaling"]
    if not options or not options.get("gatewayClassName"):
        return ["incremental upgrade needs clusterUpgradeOptions.gatewayClassName"]
    step, surge = options.get("stepSizePercent", 0), options.get("maxSurgePercent", 100)
    if not (0 <= step <= surge <= 100 and options.get("intervalSeconds", 0) > 0):
        return ["incremental upgrade: 0 <= stepSizePercent <= maxSurgePercent <= 100 and intervalSeconds > 0"]
    return []


def _cluster_errors(cluster: Document) -> list[str]:
    errors = []
    autoscaling = cluster.get("enableInTreeAutoscaling", False)
    groups = [("head", cluster["headGroupSpec"])]
    groups += [(group.get("groupName", "?"), group) for group in cluster.get("workerGroupSpecs", [])]
    for name, group in groups:
        errors += [f"{name}: {message}" for message in _group_errors(group, cluster, autoscaling)]
        if name != "head" and group.get("minReplicas", 0) > group.get("maxReplicas", 2**31 - 1):
            errors.append(f"{name}: minReplicas is above maxReplicas")
    if "upgradeStrategy" in cluster:
        errors.append("rayClusterConfig.upgradeStrategy is not allowed inside a RayService")
    return errors


def _group_errors(group: Document, cluster: Document, autoscaling: bool) -> list[str]:
    errors = []
    params = group.get("rayStartParams", {})
    pod = group["template"]["spec"]
    if any(not isinstance(value, str) for value in params.values()):
        errors.append("rayStartParams values must be strings")
    if group.get("resources") and RESOURCE_PARAMS & set(params):
        errors.append("both resources and rayStartParams resources")
    if "labels" in params:
        errors.append("rayStartParams.labels is not allowed")
    version = cluster.get("autoscalerOptions", {}).get("version", "v2")
    if autoscaling and version == "v2" and pod.get("restartPolicy", "Never") != "Never":
        errors.append("autoscaler v2 needs restartPolicy Never")
    names = {item["name"] for container in pod["containers"] for item in container.get("env", [])}
    if cluster.get("gcsFaultToleranceOptions") and (
        names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} or "redis-password" in params
    ):
        errors.append("Redis settings belong to gcsFaultToleranceOptions only")
    return errors


def pdb_errors(document: Document) -> list[str]:
    """A RayCluster has no scale subresource: only an integer minAvailable ever takes effect."""
    spec = document["spec"]
    if "maxUnavailable" in spec:
        return ["maxUnavailable never takes effect on Ray pods"]
    value = spec.get("minAvailable")
    return [] if isinstance(value, int) and not isinstance(value, bool) else [f"minAvailable {value!r} is no integer"]
