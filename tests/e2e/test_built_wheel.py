"""The built wheel, installed where there is no source tree: it holds everything that a service needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.launcher.ray_environment import free_ports
from tests.e2e.running_service import ROOT, RunningService

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel and, from the environment of the tests, nothing but its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([*pip, *build], check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    site = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    # A plain path: the editable install's own .pth file in there, which names the source tree, is not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def outside(folder: Path) -> dict[str, str]:
    """The environment of a stranger: no source tree on any path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return kept | {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}


def output_of(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(command, check=False, cwd=folder, env=outside(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def running(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("stranger")
    http, grpc = free_ports(2)
    options = ["--no-ray", "--host", "127.0.0.1", "--port", str(http), "--grpc-port", str(grpc)]
    output = folder / "output.txt"
    environment = outside(folder) | {"SWAN_MODELS": '["fashion-mlp"]'}
    with output.open("wb") as log:
        process = subprocess.Popen(
            [python.with_name("swan"), "serve", *options], cwd=folder, env=environment, stdout=log, stderr=log
        )
    service = RunningService(process, http, grpc, output)
    yield service
    service.stop()


def test_nothing_comes_from_the_source_tree(python: Path, tmp_path: Path) -> None:
    code = "import service, models, swan_runtime, loadtests, benchmarks; print(service.__file__, models.__file__)"
    said = output_of(tmp_path, python, "-c", code)
    assert all(str(python.parents[1]) in path for path in said.split()), said


def test_it_lists_its_models(python: Path, tmp_path: Path) -> None:
    said = output_of(tmp_path, python.with_name("swan"), "models")
    assert "fashion-mlp" in said
    assert "minilm-embedder" in said


def test_it_serves(running: RunningService) -> None:
    running.wait_greeted()
    base = f"http://{running.http}"
    body = {"inputs": [{"name": "INPUT", "shape": [1, 784], "datatype": "FP32", "data": [0.5] * 784}]}
    answer = httpx.post(f"{base}/v2/models/fashion-mlp/infer", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.json()["parameters"]["compute_macs"] > 0
    assert "<html" in httpx.get(f"{base}/", timeout=30).text
    assert httpx.get(f"{base}/openapi.json", timeout=30).json()["openapi"]
    assert running.stop() == 0
