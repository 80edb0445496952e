"""The dense model every peer serves, and the peers' common way to batch: rows in, logits out, one torch thread."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.batching import MAX_BATCH

NUM_FEATURES = 784


class DenseModel:
    """The dense network of a package's benchmark, by the path in SWAN_PEER_MODEL; float32 [rows, 784] to [rows, 10]."""

    def __init__(self) -> None:
        from models.images import load_dense
        from models.package import read_package

        torch.set_num_threads(1)
        self._network = load_dense(read_package(Path(os.environ["SWAN_PEER_MODEL"])))
        self(np.zeros((MAX_BATCH, NUM_FEATURES), np.float32))
        self(np.zeros((1, NUM_FEATURES), np.float32))

    @torch.inference_mode()
    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = self._network(torch.from_numpy(np.ascontiguousarray(rows))).numpy()
        return result
