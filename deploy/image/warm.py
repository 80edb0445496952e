"""Runs once in the image build: compiles and measures what every container would otherwise do at its first start.

    python warm.py CACHE

CACHE then holds what `SWAN_IMAGE_CACHE_DIR` names: cost tables of the kernels, service times of the packaged models
(both are taken only by a machine with the same CPU, others measure their own) and the compiled Numba kernels, for the
CPUs that the native library does not know. Byte code goes beside the sources, for the modules that containers import.
"""

from __future__ import annotations

import compileall
import importlib
import logging
import os
import sys
from pathlib import Path

ATTEMPTS = 5
IMPORTED_BY_CONTAINERS = ("torch", "service.cli", "service.app", "service.commands.serve", "ray.serve", "tritonclient")


def main(cache: Path) -> None:
    logging.basicConfig(level=logging.INFO)
    os.environ["XDG_CACHE_HOME"] = str(cache.parent)
    os.environ["NUMBA_CACHE_DIR"] = str(cache / "numba")
    compile_sources()
    measure_models(cache)
    compile_numba_kernels()


def compile_sources() -> None:
    for name in IMPORTED_BY_CONTAINERS:
        importlib.import_module(name)
    for package in ("ray", "service", "models", "swan_runtime"):
        folder = Path(str(importlib.import_module(package).__file__)).parent
        compileall.compile_dir(folder, quiet=2, workers=0)


def measure_models(cache: Path) -> None:
    import torch

    from service.config import Settings
    from service.engine.client import Engine
    from service.inference.package_source import PackageSource
    from service.scheduling.profiler import profile_model

    torch.set_num_threads(1)  # as in a replica; the cost tables' key holds it
    engine = Engine(Settings.load().threads)  # a profile is of the model where it will run
    source = PackageSource(load_gated=engine.load)
    for name, versions in source.versions().items():
        for version in versions:
            model = source.load(name, version)
            model.warm_up()
            for _ in range(ATTEMPTS):  # a busy machine spoils measurements, and spoiled ones are not kept
                profile = profile_model(model, Settings.load().threads, cache / "profiles")
                if profile.fit.adaptive:
                    break
    engine.close()


def compile_numba_kernels() -> None:
    """Both forms of the row kernel, as float32: its signatures depend on nothing else."""
    import torch

    from swan_runtime.kernels import numba_rows
    from swan_runtime.kernels.weights import GluWeights, MlpWeights

    matrix, x, mask = torch.zeros(4, 4), torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
    for weights in (
        MlpWeights.pack(matrix, None, matrix, None, activation="relu"),
        GluWeights.pack((matrix, None), (matrix, None), (matrix, None), activation="silu"),
    ):
        numba_rows.rows(weights, x, mask, torch.empty(1, 4))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
