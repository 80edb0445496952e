"""Render overlays with kustomize and judge documents the way an API server and the KubeRay operator would, offline."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES_VERSION = "1.32"

Document = dict[str, Any]


def render(path: Path) -> list[Document]:
    """All documents that `kubectl kustomize` makes of a folder; skips where kubectl is absent."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    result = subprocess.run([kubectl, "kustomize", str(path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [document for document in yaml.safe_load_all(result.stdout) if document]


def crd_folder() -> Path:
    """The folder `shared/crds` beside the checkout; skips with a reason where there is none."""
    for parent in ROOT.parents:
        if (parent / "shared" / "crds").is_dir():
            return parent / "shared" / "crds"
    pytest.skip("no CRDs beside the checkout (shared/crds)")


@functools.cache
def crd_schemas() -> dict[tuple[str, str], Document]:
    """(apiVersion, kind) -> strict JSON schema of every CRD at hand."""
    schemas = {}
    for path in sorted(crd_folder().glob("*.yaml")):
        crd = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        group, kind = crd["spec"]["group"], crd["spec"]["names"]["kind"]
        for version in crd["spec"]["versions"]:
            schemas[f"{group}/{version['name']}", kind] = _strict(version["schema"]["openAPIV3Schema"])
    return schemas


def _strict(node: Any) -> Any:
    """An OpenAPI v3 structural schema as the API server applies it: unknown fields are errors, defaults come first."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    schema = {key: _strict(value) for key, value in node.items() if key != "properties"}
    properties = node.get("properties")
    if properties is None:
        return schema
    schema["properties"] = {name: _strict(value) for name, value in properties.items()}
    if "required" in schema:
        schema["required"] = [name for name in schema["required"] if "default" not in properties.get(name, {})]
    if not node.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in node:
        schema["additionalProperties"] = False
    return schema


def schema_errors(document: Document) -> list[str]:
    """What a strict API server would refuse in one document."""
    key = (document.get("apiVersion", ""), document.get("kind", ""))
    if key in crd_schemas():
        schema = dict(crd_schemas()[key])
        envelope = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        schema["properties"] = (
            envelope | schema.get("properties", {}) | {"metadata": {"type": "object", "required": ["name"]}}
        )
        schema["required"] = sorted(set(schema.get("required", [])) | {"apiVersion", "kind", "metadata"})
        validator = jsonschema.Draft7Validator(schema)
        return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in validator.iter_errors(document)]
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error)[:300]]
    return []


def pod_templates(rayservice: Document) -> Iterator[tuple[str, Document]]:
    """("head" | worker group name, group spec) of a RayService."""
    cluster = rayservice["spec"]["rayClusterConfig"]
    yield "head", cluster["headGroupSpec"]
    for group in cluster.get("workerGroupSpecs", []):
        yield group["groupName"], group


def only(documents: list[Document], kind: str) -> Document:
    found = [document for document in documents if document["kind"] == kind]
    assert len(found) == 1, f"expected one {kind}, found {len(found)}"
    return found[0]
