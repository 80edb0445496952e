"""The dense model behind BentoML: numpy by JSON, adaptive batching, one worker process a core."""

# NOTE: no `from __future__ import annotations`: BentoML reads the annotations as objects.
import os

import bentoml
import numpy as np

from benchmarks.peers.batching import MAX_BATCH
from benchmarks.peers.dense import DenseModel


@bentoml.service(workers=int(os.environ.get("SWAN_PEER_WORKERS", "2")), traffic={"timeout": 30, "max_concurrency": 512})
class Dense:
    def __init__(self) -> None:
        self.model = DenseModel()

    @bentoml.api(batchable=True, batch_dim=(0, 0), max_batch_size=MAX_BATCH, max_latency_ms=1000)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.model(np.asarray(rows, np.float32))
