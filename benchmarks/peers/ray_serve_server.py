"""The dense model behind plain Ray Serve as its documentation shows it: default proxy, `@serve.batch`, raw float32."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from typing import Any

os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_SERVE_LOG_TO_STDERR="0")

import numpy as np
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from benchmarks.peers.batching import MAX_BATCH, MAX_WAIT_S
from benchmarks.peers.dense import DenseModel


@serve.deployment(max_ongoing_requests=256, num_replicas=1, logging_config={"enable_access_log": False})
class Dense:
    def __init__(self) -> None:
        self.model = DenseModel()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=MAX_WAIT_S)
    async def predict(self, rows: list[Any]) -> list[Any]:
        return list(self.model(np.stack(rows)))

    async def __call__(self, request: Request) -> Response:
        row = np.frombuffer(await request.body(), np.float32)
        return Response((await self.predict(row)).tobytes(), media_type="application/octet-stream")


if __name__ == "__main__":
    folder = tempfile.mkdtemp(prefix="rs", dir="/tmp")
    ray.init(include_dashboard=False, _temp_dir=folder, object_store_memory=100 << 20, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Dense.bind(), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
