"""The dense model behind LitServe: JSON in, JSON out, dynamic batching, one worker process a core."""

# NOTE: no `from __future__ import annotations`: LitServe reads annotations as objects, and none as JSON.
import os
import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.batching import MAX_BATCH, MAX_WAIT_S
from benchmarks.peers.dense import DenseModel


class DenseApi(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = DenseModel()

    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return np.asarray(request["input"], np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)

    def predict(self, x: Any) -> Any:
        return self.model(x)

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"output": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        DenseApi(max_batch_size=MAX_BATCH, batch_timeout=MAX_WAIT_S),
        accelerator="cpu",
        workers_per_device=int(os.environ.get("SWAN_PEER_WORKERS", "2")),
    )
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
