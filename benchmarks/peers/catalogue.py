"""The peers: how each is installed and started, and how a row reaches it. A peer that does not install is skipped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from benchmarks.peers.batching import MAX_BATCH, MAX_WAIT_S
from loadtests.answers import HTTP_OUTCOMES, Answer, Outcome, from_http
from loadtests.http_client import HttpParser
from loadtests.payloads import InputSpec, Sample, http_binary, http_json

Body = tuple[bytes, int | None]
Encoder = Callable[[Sample], Body]
FOLDER = Path(__file__).parent
OIP_INPUT = InputSpec("INPUT", "FP32", (784,))


@dataclass(frozen=True, slots=True)
class Peer:
    """requirement: what pip installs, "" = nothing. command: {python}, {port} and {folder} are filled in."""

    name: str
    protocol: str
    requirement: str
    command: tuple[str, ...]
    path: str
    encode: Encoder
    parse: HttpParser
    prepare: Callable[[Path, int], None] = lambda folder, port: None


def raw(sample: Sample) -> Body:
    return np.ascontiguousarray(sample.array, np.float32).tobytes(), None


def plain_json(key: str, nested: bool) -> Encoder:
    def encode(sample: Sample) -> Body:
        row = sample.array.ravel().astype(float).tolist()
        return orjson.dumps({key: [row] if nested else row}), None

    return encode


def _parse(read: Callable[[bytes], np.ndarray]) -> HttpParser:
    def parse(status: int, headers: Mapping[bytes, bytes], body: bytes) -> Answer:
        if status != 200:
            return Answer(HTTP_OUTCOMES.get(status, Outcome.ERROR), {}, detail=f"{status} {body[:100]!r}")
        return Answer(Outcome.OK, {}, read(body))

    return parse


def _mlserver_files(folder: Path, port: int) -> None:
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1, "metrics_port": port + 2, "debug": False}
    model = {
        "name": "dense",
        "implementation": "benchmarks.peers.mlserver_runtime.DenseRuntime",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": MAX_WAIT_S,
    }
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")


def _json_rows(body: bytes) -> np.ndarray:
    return np.asarray(orjson.loads(body)[0], np.float32)


PEERS = (
    Peer(
        "litserve",
        "http-json",
        "litserve==0.2.19",
        ("{python}", "-m", "benchmarks.peers.litserve_server", "{port}"),
        "/predict",
        plain_json("input", nested=False),
        _parse(lambda body: np.asarray(orjson.loads(body)["output"], np.float32)),
    ),
    Peer(
        "mosec",
        "http-raw",
        "mosec==0.9.8",
        ("{python}", "-m", "benchmarks.peers.mosec_server", "{port}"),
        "/inference",
        raw,
        _parse(lambda body: np.frombuffer(body, np.float32)),
    ),
    Peer(
        "bentoml",
        "http-json",
        "bentoml",
        ("{python}", "-m", "bentoml", "serve", "benchmarks.peers.bentoml_server:Dense", "--port", "{port}"),
        "/predict",
        plain_json("rows", nested=True),
        _parse(_json_rows),
    ),
    Peer(
        "mlserver",
        "http-oip-json",
        "mlserver==1.7.1",
        ("{python}", "-c", "from mlserver.cli import main; main()", "start", "{folder}"),
        "/v2/models/dense/infer",
        lambda sample: (http_json(sample, OIP_INPUT, {}), None),
        from_http,
        _mlserver_files,
    ),
    Peer(
        "kserve",
        "http-oip-binary",
        "kserve",
        ("{python}", "-m", "benchmarks.peers.kserve_server", "{port}"),
        "/v2/models/dense/infer",
        lambda sample: http_binary(sample, OIP_INPUT, {}),
        from_http,
    ),
    Peer(
        "triton",
        "http-oip-binary",
        "nvidia-pytriton==0.7.0",
        ("{python}", "-m", "benchmarks.peers.triton_server", "{port}"),
        "/v2/models/dense/infer",
        lambda sample: http_binary(sample, OIP_INPUT, {}),
        from_http,
    ),
    Peer(
        "ray-serve",
        "http-raw",
        "",
        ("{python}", "-m", "benchmarks.peers.ray_serve_server", "{port}"),
        "/predict",
        raw,
        _parse(lambda body: np.frombuffer(body, np.float32)),
    ),
)
