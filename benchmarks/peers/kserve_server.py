"""The dense model behind KServe's Python server: Open Inference Protocol with binary tensors; it does not batch."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.peers.dense import DenseModel


class Dense(Model):
    def __init__(self) -> None:
        super().__init__("dense")
        self._dense = DenseModel()
        self.ready = True

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> InferResponse:
        assert isinstance(payload, InferRequest)
        logits = self._dense(payload.inputs[0].as_numpy())
        output = InferOutput("OUTPUT", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id or "", "dense", [output])


if __name__ == "__main__":
    port = int(sys.argv[1])
    sys.argv = sys.argv[:1]
    assert argparse
    ModelServer(http_port=port, enable_grpc=False, workers=1).start([Dense()])
