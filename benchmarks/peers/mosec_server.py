"""The dense model behind Mosec: raw float32 in and out, dynamic batching, one worker process a core."""

from __future__ import annotations

import os
import sys

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.batching import MAX_BATCH, MAX_WAIT_S
from benchmarks.peers.dense import DenseModel


class DenseWorker(Worker):
    def __init__(self) -> None:
        super().__init__()
        self.model = DenseModel()

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.float32)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data: list[np.ndarray]) -> list[np.ndarray]:
        return list(self.model(np.stack(data)))


if __name__ == "__main__":
    sys.argv = ["mosec", "--address", "127.0.0.1", "--port", sys.argv[1], "--log-level", "warning"]
    server = Server()
    server.append_worker(
        DenseWorker,
        num=int(os.environ.get("SWAN_PEER_WORKERS", "2")),
        max_batch_size=MAX_BATCH,
        max_wait_time=int(MAX_WAIT_S * 1000),
    )
    server.run()
