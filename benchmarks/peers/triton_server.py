"""The dense model behind Triton: the tritonserver that nvidia-pytriton brings, with its Python backend, two instances.

PyTriton itself is left out: it takes every batch on from the backend's processes to threads of one Python process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from benchmarks.peers.batching import MAX_BATCH, MAX_WAIT_S

REPOSITORY = Path(__file__).resolve().parents[2]
SITE = Path(sysconfig.get_paths()["platlib"])
TRITON = SITE / "pytriton" / "tritonserver"
CONFIG = f"""
name: "dense"
backend: "python"
max_batch_size: {MAX_BATCH}
input [{{ name: "INPUT" data_type: TYPE_FP32 dims: [784] }}]
output [{{ name: "OUTPUT" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{{ count: {os.environ.get("SWAN_PEER_WORKERS", "2")} kind: KIND_CPU }}]
dynamic_batching {{ max_queue_delay_microseconds: {MAX_WAIT_S * 1e6:.0f} }}
"""
MODEL = f"""
import sys

sys.path.insert(0, {str(REPOSITORY)!r})
from benchmarks.peers.triton_model import TritonPythonModel
"""


def model_repository(folder: Path) -> Path:
    """The model's own file only imports: the backend's interpreter is an isolated one, PYTHONPATH does not reach it."""
    version = folder / "repository" / "dense" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG, encoding="utf-8")
    (version / "model.py").write_text(MODEL, encoding="utf-8")
    return folder / "repository"


def backends(folder: Path) -> Path:
    """The Python backend with the stub of this interpreter's version, as links: the wheel has one stub a version."""
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    stub = TRITON / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    if not stub.exists():
        sys.exit(f"nvidia-pytriton has no Python backend for Python {sysconfig.get_python_version()}")
    for file in (stub, *(TRITON / "backends" / "python").iterdir()):
        (python / file.name).symlink_to(file)
    return folder / "backends"


def environment() -> dict[str, str]:
    """The stub takes its libpython from the loader's path and its standard library from the `python3` on PATH.

    The interpreter's own folder comes first there: with the distribution's libpython of the same minor version the
    two do not fit (3.11.2 beside modules of 3.11.7: `'_thread.RLock' object has no attribute '_recursion_count'`).
    """
    libraries = [sysconfig.get_config_var("LIBDIR"), str(SITE / "nvidia_pytriton.libs")]
    return {
        **os.environ,
        "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(":"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


if __name__ == "__main__":
    folder, env = Path.cwd(), environment()
    stub = backends(folder) / "python" / "triton_python_backend_stub"
    probe = subprocess.run([stub], env=env, capture_output=True, text=True, check=False)
    if probe.returncode == 127:
        sys.exit(probe.stderr.strip())
    command = [
        str(TRITON / "bin" / "tritonserver"),
        f"--model-repository={model_repository(folder)}",
        f"--backend-directory={stub.parents[1]}",
        "--http-address=127.0.0.1",
        f"--http-port={sys.argv[1]}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--disable-auto-complete-config",
        "--log-info=false",
    ]
    os.execve(command[0], command, env)
