"""`swan bench serving`: one model behind this service and behind its peers, on the same cores, with the same client.

Every server gets the same images at the same deadline. Reported: the highest rate with 99 % on time, latency at a
common rate, CPU time per request of the whole process tree (idle subtracted), memory, start-up time, and the quality
of the answers, always.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import uvloop
from rich.table import Table

from benchmarks.peers.catalogue import OIP_INPUT, PEERS, Peer
from benchmarks.peers.environments import PeerAbsent, python_of
from benchmarks.serving_plot import plot
from loadtests import process_tree
from loadtests.answers import Outcome
from loadtests.capacity import measure
from loadtests.clients import Client
from loadtests.http_client import HttpClient
from loadtests.records import summarise
from loadtests.samples import samples_for
from loadtests.schedules import arrivals, constant
from loadtests.session import CLIENT_TIMEOUT_S, Session, Variant, service_session
from loadtests.target import free_port, started
from models.registry import find_package, shipped_repository
from service.commands.tables import table_console

Say = Callable[[str], None]
START_TIMEOUT_S = 120.0
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Settings:
    """deadline_s: the SLO. probe_s: length of one try of a rate; common_rate for common_s: latency and CPU time.

    replicas: of this service; peers that have workers have two.
    """

    model: str = "fashion-resnet"
    deadline_s: float = 0.05
    probe_s: float = 4.0
    common_rate: float = 100.0
    common_s: float = 6.0
    replicas: int = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One server. rps: highest rate with 99 % within the deadline; p50, p99, CPU: at the common rate."""

    server: str
    protocol: str
    model: str
    concurrency: int
    rps: float
    closed_loop_rps: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    rss_mib: float
    startup_s: float
    quality: float
    quality_at_capacity: float
    budget_at_capacity: float
    deadline_ms: float


@contextlib.contextmanager
def peer_process(
    peer: Peer, python: str, environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A started peer and its port, in a session of its own; ended with everything it started."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="peer", dir="/tmp") as name:
        folder = Path(name)
        peer.prepare(folder, port)
        command = [part.format(python=python, port=port, folder=folder) for part in peer.command]
        log = (folder / "log").open("wb")
        env = {**os.environ, **environment, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=env, start_new_session=True, cwd=folder
        )
        try:
            yield process, port
        except NoAnswer as problem:
            tail = (folder / "log").read_text(errors="replace")[-300:]
            raise PeerAbsent(f"{problem}: {tail}") from None
        finally:
            process_tree.end(process.pid)
            process.wait()
            log.close()


def peer_session(peer: Peer, port: int) -> Session:
    samples = samples_for(OIP_INPUT, 512)

    def connect(variants: tuple[Variant, ...]) -> Client:
        bodies = [peer.encode(sample) for _ in variants for sample in samples]
        return HttpClient(f"http://127.0.0.1:{port}", peer.path, bodies, CLIENT_TIMEOUT_S, None, peer.parse)

    return Session(samples, connect)


class NoAnswer(RuntimeError):
    """The server ended, or let START_TIMEOUT_S pass."""


async def first_answer(session: Session, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers a real request. Raises NoAnswer."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NoAnswer(f"ended with {process.returncode}")
        client = session.connect((Variant(CLIENT_TIMEOUT_S, {}),))
        answer = await client.send(0)
        await client.close()
        if answer.outcome == Outcome.OK:
            return
        await asyncio.sleep(0.2)
    raise NoAnswer(f"does not answer after {START_TIMEOUT_S:.0f} s")


async def measured(session: Session, pid: int, settings: Settings, variant: Variant, say: Say) -> dict[str, float]:
    """Everything that is measured of one running server."""
    quality = await session.reference()
    capacity = await measure(session, variant, say, settings.probe_s)
    idle_start = process_tree.cpu_seconds(pid)
    await asyncio.sleep(2.0)
    idle_per_s = (process_tree.cpu_seconds(pid) - idle_start) / 2.0
    times = arrivals(constant(settings.common_rate), settings.common_s, seed=99)
    before, clock = process_tree.cpu_seconds(pid), time.perf_counter()
    run = await session.run(times, (variant,), seed=99)
    spent = process_tree.cpu_seconds(pid) - before - idle_per_s * (time.perf_counter() - clock)
    common, best = summarise(run), capacity.best
    return {
        "rps": capacity.rate,
        "closed_loop_rps": capacity.closed_loop,
        "p50_ms": common.p50_ms,
        "p99_ms": common.p99_ms,
        "cpu_ms_per_request": 1e3 * max(spent, 0.0) / max(times.size, 1),
        "rss_mib": process_tree.memory_mib(pid),
        "quality": quality,
        "quality_at_capacity": best.accuracy if best else float("nan"),
        "budget_at_capacity": best.budget_mean if best and not np.isnan(best.budget_mean) else 1.0,
    }


def bench_peer(peer: Peer, settings: Settings, install: bool, model_path: Path, say: Say) -> Record:
    """Raises PeerAbsent when the peer cannot be installed or started."""
    python = python_of(peer, install)
    begin = time.monotonic()
    with peer_process(peer, python, {"SWAN_PEER_MODEL": str(model_path)}) as (process, port):
        session = peer_session(peer, port)
        uvloop.run(first_answer(session, process))
        startup_s = time.monotonic() - begin
        figures = uvloop.run(measured(session, process.pid, settings, Variant(settings.deadline_s, {}), say))
    return _record(peer.name, peer.protocol, settings, startup_s, figures)


def bench_swan(name: str, protocol: str, quality: str, settings: Settings, say: Say) -> Record:
    """This service: `quality` full is the fixed full budget, auto the adaptive one."""
    begin = time.monotonic()
    replicas = ("--replicas", str(settings.replicas))
    with tempfile.TemporaryDirectory(prefix="sw", dir="/tmp") as folder, started(Path(folder), replicas) as target:
        startup_s = time.monotonic() - begin
        assert target.pid is not None
        session = service_session(target, settings.model, protocol)
        variant = Variant(settings.deadline_s, {"quality": quality})
        figures = uvloop.run(measured(session, target.pid, settings, variant, say))
    return _record(name, protocol, settings, startup_s, figures)


def _record(name: str, protocol: str, settings: Settings, startup_s: float, figures: Mapping[str, float]) -> Record:
    return Record(
        server=name,
        protocol=protocol,
        model=settings.model,
        concurrency=16,
        startup_s=startup_s,
        deadline_ms=settings.deadline_s * 1e3,
        **figures,
    )


def run(settings: Settings, only: tuple[str, ...], install: bool, keep: Path | None, say: Say) -> list[Record]:
    """Every server one after the other; absent peers are said and skipped. keep: where records go as they come."""
    model_path = find_package(shipped_repository(), settings.model)
    ours: list[tuple[str, str, str]] = [
        ("swan-serve, adaptive", "http", "auto"),
        ("swan-serve, adaptive", "grpc", "auto"),
        ("swan-serve, Fixed(1.0)", "http", "full"),
    ]
    records = []
    for name, protocol, quality in ours:
        if not only or "swan" in only:
            say(f"{name} over {protocol}")
            records.append(bench_swan(name, protocol, quality, settings, say))
            _keep(records, keep)
    for peer in PEERS:
        if only and peer.name not in only:
            continue
        say(peer.name)
        try:
            records.append(bench_peer(peer, settings, install, model_path, say))
        except PeerAbsent as reason:
            say(f"{peer.name} skipped: {reason}")
        _keep(records, keep)
    return records


def _keep(records: list[Record], path: Path | None) -> None:
    """Write what is known so far: a server that breaks the run must not take the others' figures with it."""
    if path is not None:
        path.write_text(json.dumps(as_json(records), indent=1) + "\n", encoding="utf-8")


def as_json(records: list[Record]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records here.")] = None,
    plot_dir: Annotated[Path | None, typer.Option("--plot", help="Folder for serving.png.")] = None,
    model: Annotated[str, typer.Option(help="Packaged model to serve.")] = "fashion-resnet",
    only: Annotated[list[str] | None, typer.Option(help="swan or a peer's name; repeat for several.")] = None,
    install: Annotated[bool, typer.Option(help="Install absent peers into environments of their own.")] = False,
    deadline_ms: Annotated[float, typer.Option(help="The SLO: 99 % within this.")] = 50.0,
    rate: Annotated[float, typer.Option(help="Common rate for latency and CPU per request.")] = 100.0,
    replicas: Annotated[int, typer.Option(min=1, help="Of this service; peers have two workers.")] = 2,
) -> None:
    """This service beside its peers: rate within the SLO, latency, CPU per request, memory, start-up, quality."""
    console = table_console(highlight=False)
    settings = Settings(model=model, deadline_s=deadline_ms / 1e3, common_rate=rate, replicas=replicas)
    records = run(settings, tuple(only or ()), install, json_file, console.print)
    console.print(table(records))
    if plot_dir is not None:
        console.print(f"picture: {plot(records, plot_dir)}")


def table(records: list[Record]) -> Table:
    columns = {
        "rps": ".0f",
        "p50_ms": ".2f",
        "p99_ms": ".1f",
        "cpu_ms_per_request": ".2f",
        "rss_mib": ".0f",
        "startup_s": ".1f",
        "quality": ".4f",
        "quality_at_capacity": ".4f",
        "budget_at_capacity": ".2f",
    }
    result = Table("server", "protocol", *columns, title=f"{records[0].model} on the same cores" if records else "")
    for record in sorted(records, key=lambda one: -one.rps):
        result.add_row(record.server, record.protocol, *(format(getattr(record, c), f) for c, f in columns.items()))
    return result
