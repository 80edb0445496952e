"""The dense model for Triton's Python backend; each instance is a process of its own, a batch comes as requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as backend

from benchmarks.peers.dense import DenseModel


class TritonPythonModel:
    """`triton_python_backend_utils` exists in the backend's processes only, where this is imported."""

    def initialize(self, args: dict[str, str]) -> None:
        self._dense = DenseModel()

    def execute(self, requests: list[Any]) -> list[Any]:
        rows = [backend.get_input_tensor_by_name(request, "INPUT").as_numpy() for request in requests]
        logits = self._dense(np.concatenate(rows))
        parts = np.split(logits, np.cumsum([len(part) for part in rows])[:-1])
        return [backend.InferenceResponse([backend.Tensor("OUTPUT", part)]) for part in parts]
