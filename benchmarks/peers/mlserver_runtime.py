"""The dense model behind MLServer: Open Inference Protocol in JSON (it has no binary tensors), adaptive batching."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.dense import DenseModel


class DenseRuntime(MLModel):
    async def load(self) -> bool:
        self._dense = DenseModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype("float32")
        output = NumpyCodec.encode_output("OUTPUT", self._dense(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
