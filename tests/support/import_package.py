"""A model repository on disk with plain functions as models, for tests of whoever loads packages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.interface import Arrays


def identity(inputs: Arrays) -> Mapping[str, Any]:
    return {"y": inputs["x"]}


def write_package(repository: Path, name: str = "identity", version: str = "1", **changes: Any) -> Path:
    """Write repository/name/version/model.json; `changes` replace fields of the manifest."""
    manifest = {
        "format_version": 1,
        "name": name,
        "family": "import",
        "description": "y = x",
        "licence": "Apache-2.0",
        "import_path": "tests.support.import_package:identity",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
        "max_batch_size": 64,
        "default_deadline_s": 5.0,
    }
    folder = repository / name / version
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(manifest | changes))
    return folder
