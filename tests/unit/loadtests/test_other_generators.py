"""Requests for k6 and Locust: what is exported is what the protocol takes, and the scripts read that file."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from loadtests.export import exported
from loadtests.payloads import InputSpec
from loadtests.samples import samples_for

FOLDER = Path(__file__).parents[3] / "loadtests"
IMAGE = InputSpec("INPUT", "FP32", (784,))


def test_exported_requests_carry_inputs_deadline_and_label() -> None:
    samples = samples_for(IMAGE, 5)
    document = exported("fashion-mlp", IMAGE, samples, 0.08)
    assert document["path"] == "/v2/models/fashion-mlp/infer" and document["deadline_ms"] == 80.0
    for request, sample in zip(document["requests"], samples, strict=True):
        tensor = request["body"]["inputs"][0]
        assert tensor["shape"] == [1, 784] and tensor["datatype"] == "FP32"
        assert np.allclose(tensor["data"], sample.array)
        assert request["label"] == sample.label and request["body"]["parameters"] == {"timeout": 80_000}


def test_texts_are_exported_as_texts() -> None:
    spec = InputSpec("TEXT", "BYTES", (1,))
    request = exported("minilm-embedder", spec, samples_for(spec, 1), 0.1)["requests"][0]
    assert isinstance(request["body"]["inputs"][0]["data"][0], str) and request["label"] is None
    json.dumps(request)


def test_both_scripts_read_the_keys_that_are_exported() -> None:
    """No k6 and no Locust in the test environment: at least their sources and the file must speak of the same keys."""
    document = exported("fashion-mlp", IMAGE, samples_for(IMAGE, 1), 0.08)
    keys = [*document, *document["requests"][0]]
    locust = (FOLDER / "locust" / "locustfile.py").read_text(encoding="utf-8")
    constants = [node.slice for node in ast.walk(ast.parse(locust)) if isinstance(node, ast.Subscript)]
    subscripts = {item.value for item in constants if isinstance(item, ast.Constant)}
    assert set(keys) <= subscripts
    k6 = (FOLDER / "k6" / "infer.js").read_text(encoding="utf-8")
    assert all(f".{key}" in k6 for key in keys)


@pytest.mark.skipif(shutil.which("node") is None, reason="no JavaScript parser here")
def test_the_k6_script_parses(tmp_path: Path) -> None:
    copy = tmp_path / "infer.mjs"
    copy.write_bytes((FOLDER / "k6" / "infer.js").read_bytes())
    subprocess.run(["node", "--check", str(copy)], check=True)
