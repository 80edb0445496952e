"""Small real models for tests of the protocol: identities of every datatype, arithmetic, a classifier, slow ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput, ModelSpec, ServableModel, TensorSpec
from service.inference.datatypes import DATATYPES
from swan_runtime.budget import CalibrationTable
from swan_runtime.errors import InvalidInputError
from swan_runtime.report import ComputeReport, LayerReport
from tests.support.gated_numpy import GatedNumpy

Compute = Callable[[Arrays], Arrays]


class TinyModel:
    """An ungated model around a plain function of arrays."""

    table: CalibrationTable | None = None

    def __init__(
        self,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        compute: Compute,
        max_batch_size: int = 8,
        labels: tuple[str, ...] = (),
        version: str = "1",
    ) -> None:
        self.spec = ModelSpec(name, version, "tiny", inputs, outputs, max_batch_size, 1.0, labels)
        self.fingerprint = f"{name}-{version}"
        self._compute = compute

    def warm_up(self) -> None:
        """Nothing to compile."""

    def example(self, rows: int) -> Arrays:
        return {tensor.name: np.zeros((rows, *(max(size, 1) for size in tensor.shape))) for tensor in self.spec.inputs}

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        report = ComputeReport(1.0, (LayerReport("all", 4, 4, 16, 0, 16, "numpy"),), 2)
        return ModelOutput(self._compute(inputs), tuple(report for _ in budgets))


def identity(datatype: str, version: str = "1") -> TinyModel:
    """y = x, any length: identity_fp32 and so on."""
    name = f"identity_{datatype.lower()}"
    return TinyModel(
        name,
        (TensorSpec("x", datatype, (-1,)),),
        (TensorSpec("y", datatype, (-1,)),),
        lambda inputs: {"y": inputs["x"]},
        max_batch_size=64,
        version=version,
    )


def add_sub(version: str = "1") -> TinyModel:
    """sum and difference of two rows of four INT32."""
    row = (4,)
    return TinyModel(
        "add_sub",
        (TensorSpec("a", "INT32", row), TensorSpec("b", "INT32", row)),
        (TensorSpec("sum", "INT32", row), TensorSpec("difference", "INT32", row)),
        lambda inputs: {"sum": inputs["a"] + inputs["b"], "difference": inputs["a"] - inputs["b"]},
        version=version,
    )


def classifier() -> TinyModel:
    """Three class scores: the input itself."""
    return TinyModel(
        "classifier",
        (TensorSpec("x", "FP32", (3,)),),
        (TensorSpec("scores", "FP32", (3,)), TensorSpec("text", "BYTES", (1,))),
        lambda inputs: {
            "scores": inputs["x"],
            "text": np.full((len(inputs["x"]), 1), b"\xff\xfe", dtype=object),
        },
        labels=("cat", "dog", "owl"),
    )


def raising() -> TinyModel:
    """Fails with a secret, or refuses the value 7."""

    def compute(inputs: Arrays) -> Arrays:
        if (inputs["x"] == 7).any():
            raise InvalidInputError("x", "anything but 7", "7")
        raise RuntimeError("secret at /root/secret/path")

    return TinyModel("raising", (TensorSpec("x", "INT32", (-1,)),), (TensorSpec("y", "INT32", (-1,)),), compute)


class SlowModel(TinyModel):
    """y = x, once the test says so: `entered` counts calls that wait, each `release.release()` lets one go."""

    def __init__(self) -> None:
        super().__init__("slow", (TensorSpec("x", "INT32", (-1,)),), (TensorSpec("y", "INT32", (-1,)),), self._wait)
        self.entered = threading.Semaphore(0)
        self.release = threading.Semaphore(0)

    def _wait(self, inputs: Arrays) -> Arrays:
        self.entered.release()
        self.release.acquire(timeout=30.0)
        return {"y": inputs["x"]}


class MemorySource:
    """A ModelSource of models that are made when they are loaded."""

    def __init__(self, makers: Mapping[tuple[str, str], Callable[[], ServableModel]]) -> None:
        self.makers = dict(makers)

    def versions(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for name, version in self.makers:
            found.setdefault(name, []).append(version)
        return found

    def load(self, name: str, version: str) -> ServableModel:
        return self.makers[name, version]()


def all_models(slow: SlowModel) -> MemorySource:
    makers: dict[tuple[str, str], Callable[[], ServableModel]] = {
        (f"identity_{datatype.lower()}", "1"): lambda datatype=datatype: identity(datatype)  # type: ignore[misc]
        for datatype in DATATYPES
    }
    makers |= {
        ("add_sub", "1"): add_sub,
        ("add_sub", "3"): lambda: add_sub("3"),
        ("classifier", "1"): classifier,
        ("raising", "1"): raising,
        ("slow", "1"): lambda: slow,
        ("gated", "1"): GatedNumpy,
    }
    return MemorySource(makers)
