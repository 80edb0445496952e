"""`swan bench overhead`: what the service costs around a model that does nothing, beside plain uvicorn and FastAPI.

CPU time per request is that of the whole process tree with its idle time subtracted, so a busy machine changes it
little; latency is measured one request at a time. Servers take turns in shuffled rounds; the median round counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import grpc
import httpx
import numpy as np
import tritonclient.grpc
import tritonclient.http
import typer
from rich.table import Table

from loadtests import process_tree
from loadtests.http_client import HttpClient
from loadtests.target import free_port
from service.commands.tables import table_console

ROWS = np.ones((1, 4), dtype=np.float32)
PATH = "/v2/models/identity/infer"
METHOD = "/inference.GRPCInferenceService/ModelInfer"
TARGET_CPU_MS = {"swan-serve http": 0.35, "swan-serve grpc": 0.6}
START_TIMEOUT_S = 240.0
PATIENCE_US = 60_000_000  # no deadline matters here: on a busy machine nothing shall be shed
Send = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Effort:
    """rounds: turns of each server; requests: of one turn at `concurrency`; alone: one at a time, for the latency."""

    rounds: int = 5
    requests: int = 4000
    concurrency: int = 32
    alone: int = 400
    idle_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """One server over one protocol. cpu_ms: CPU milliseconds per request; target_cpu_ms: None where there is none."""

    server: str
    cpu_ms: float
    cpu_ms_best: float
    p50_ms: float
    requests_per_s: float
    target_cpu_ms: float | None


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server with a client. idle_share: CPU seconds a second that it uses without requests."""

    name: str
    pid: int
    send: Send
    idle_share: float


@dataclass(frozen=True, slots=True)
class Turn:
    cpu_ms: float
    p50_ms: float
    requests_per_s: float


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records here.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of each server.", min=1)] = 5,
    requests: Annotated[int, typer.Option(help="Requests of one turn.", min=100)] = 4000,
) -> None:
    """CPU time and latency per request around an identity model, over HTTP and gRPC, beside uvicorn + FastAPI."""
    console = table_console(highlight=False)
    records = asyncio.run(run(Effort(rounds=rounds, requests=requests)))
    console.print(table(records))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n", encoding="utf-8")


async def run(effort: Effort) -> list[Record]:
    with service() as (pid, http_port, grpc_port), fastapi() as (peer_pid, peer_port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            senders = [
                ("swan-serve http", pid, _http(http_port)),
                ("swan-serve grpc", pid, _grpc(channel)),
                ("uvicorn + FastAPI http", peer_pid, _http(peer_port)),
            ]
            for _, _, send in senders:
                await _load(send, effort.requests // 4, effort.concurrency)
            idle = {server: await _idle_share(server, effort.idle_s) for server in (pid, peer_pid)}
            subjects = [Subject(name, server, send, idle[server]) for name, server, send in senders]
            turns = await _turns(subjects, effort)
    return [_record(name, taken) for name, taken in turns.items()]


async def _turns(subjects: list[Subject], effort: Effort) -> dict[str, list[Turn]]:
    order = random.Random(0)
    turns: dict[str, list[Turn]] = {subject.name: [] for subject in subjects}
    for _ in range(effort.rounds):
        for subject in order.sample(subjects, len(subjects)):
            turns[subject.name].append(await _turn(subject, effort))
    return turns


async def _turn(subject: Subject, effort: Effort) -> Turn:
    alone = []
    for _ in range(effort.alone):
        began = time.perf_counter()
        await subject.send()
        alone.append(time.perf_counter() - began)
    cpu, began = process_tree.cpu_seconds(subject.pid), time.perf_counter()
    await _load(subject.send, effort.requests, effort.concurrency)
    wall_s = time.perf_counter() - began
    used_s = process_tree.cpu_seconds(subject.pid) - cpu - subject.idle_share * wall_s
    return Turn(used_s / effort.requests * 1e3, median(alone) * 1e3, effort.requests / wall_s)


async def _load(send: Send, requests: int, concurrency: int) -> None:
    """A closed loop of `concurrency` clients."""

    async def client(count: int) -> None:
        for _ in range(count):
            await send()

    share, rest = divmod(requests, concurrency)
    await asyncio.gather(*(client(share + (number < rest)) for number in range(concurrency)))


async def _idle_share(pid: int, seconds: float) -> float:
    cpu, began = process_tree.cpu_seconds(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (process_tree.cpu_seconds(pid) - cpu) / (time.perf_counter() - began)


def _http(port: int) -> Send:
    tensor = tritonclient.http.InferInput("INPUT", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    body, length = tritonclient.http.InferenceServerClient.generate_request_body([tensor], timeout=PATIENCE_US)
    client = HttpClient(f"http://127.0.0.1:{port}", PATH, [(bytes(body), length)], timeout_s=60.0, parse=_status)

    async def send() -> None:
        status: Any = await client.send(0)
        if status != 200:
            raise RuntimeError(f"port {port} answered {status}")

    return send


def _status(status: int, headers: dict[str, str], body: bytes) -> Any:
    return status


def _grpc(channel: grpc.aio.Channel) -> Send:
    tensor = tritonclient.grpc.InferInput("INPUT", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS)
    request = tritonclient.grpc.service_pb2.ModelInferRequest(model_name="identity")
    request.inputs.append(tensor._get_tensor())
    request.parameters["timeout"].int64_param = PATIENCE_US
    request.raw_input_contents.append(ROWS.tobytes())
    call, message = channel.unary_unary(METHOD), request.SerializeToString()

    async def send() -> None:
        await call(message, timeout=60.0)

    return send


@contextlib.contextmanager
def service() -> Iterator[tuple[int, int, int]]:
    """`swan serve` with the identity model alone; gives its process id and ports."""
    http_port, grpc_port = free_port(), free_port()
    packages = Path(__file__).parent / "packages"
    options = ["--models", str(packages), "--host", "127.0.0.1", "--replicas", "1"]
    ports = ["--port", str(http_port), "--grpc-port", str(grpc_port)]
    with _process([sys.executable, "-m", "service.cli", "serve", *options, *ports], http_port) as pid:
        yield pid, http_port, grpc_port


@contextlib.contextmanager
def fastapi() -> Iterator[tuple[int, int]]:
    port = free_port()
    with _process([sys.executable, "-m", "benchmarks.peers.fastapi_server", str(port)], port) as pid:
        yield pid, port


@contextlib.contextmanager
def _process(command: list[str], port: int) -> Iterator[int]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_ready(process, port)
            yield process.pid
        finally:
            process_tree.end(process.pid)
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{' '.join(process.args[1:4])} did not become ready")  # type: ignore[index]


def _record(name: str, turns: list[Turn]) -> Record:
    cpu = [turn.cpu_ms for turn in turns]
    return Record(
        server=name,
        cpu_ms=median(cpu),
        cpu_ms_best=min(cpu),
        p50_ms=median(turn.p50_ms for turn in turns),
        requests_per_s=median(turn.requests_per_s for turn in turns),
        target_cpu_ms=TARGET_CPU_MS.get(name),
    )


def table(records: list[Record]) -> Table:
    shown = Table(box=None, title="cost around a model that does nothing: 1x4 FP32, binary")
    for column in ("server", "CPU ms / request", "best round", "target", "p50 ms, alone", "requests/s"):
        shown.add_column(column, justify="left" if column == "server" else "right")
    for record in records:
        target = "" if record.target_cpu_ms is None else f"<= {record.target_cpu_ms:g}"
        numbers = (f"{record.cpu_ms:.3f}", f"{record.cpu_ms_best:.3f}", target, f"{record.p50_ms:.2f}")
        shown.add_row(record.server, *numbers, f"{record.requests_per_s:.0f}")
    return shown
