"""The dense model behind NVIDIA's Triton server by PyTriton: its Python backend, two instances, dynamic batching."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers.dense import MAX_BATCH, MAX_WAIT_S, NUM_FEATURES, DenseModel


class Instance:
    """One inference process: PyTriton starts as many as it is given callables."""

    def __init__(self) -> None:
        self._dense: DenseModel | None = None

    @batch
    def __call__(self, INPUT: Any) -> dict[str, Any]:
        if self._dense is None:  # in the process that serves, after the fork
            self._dense = DenseModel()
        return {"OUTPUT": self._dense(INPUT)}


def main(port: int) -> None:
    config = TritonConfig(http_port=port, http_address="127.0.0.1", allow_grpc=False, allow_metrics=False)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="dense",
            infer_func=[Instance() for _ in range(int(os.environ.get("SWAN_PEER_WORKERS", "2")))],
            inputs=[Tensor(name="INPUT", dtype=np.float32, shape=(NUM_FEATURES,))],
            outputs=[Tensor(name="OUTPUT", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=int(MAX_WAIT_S * 1e6)),
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
