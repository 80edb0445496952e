"""`swan bench ingress-overload`: what is left of a model's capacity when several times as much is asked for.

Capacity is what the service answers to a closed loop with the model held at its full budget. Then an open loop offers
multiples of it with a deadline: goodput counts answers within the deadline from the intended send, as the client sees
it. A service whose ingress is cheap and never starved keeps its goodput at capacity, however much is offered.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import typer
from rich.table import Table

from loadtests import generator, process_tree
from loadtests.answers import TURNED_AWAY, Answer, Outcome
from loadtests.http_client import HttpClient
from loadtests.outcomes import outcomes_of
from loadtests.payloads import http_binary, input_spec
from loadtests.samples import samples_for
from loadtests.schedules import arrivals, constant
from loadtests.target import Target, started
from service.commands.tables import table_console

NUM_SAMPLES = 64
CLIENTS = 32
PATIENCE_US = 60_000_000  # of the closed loop


@dataclass(frozen=True, slots=True)
class Record:
    """One load. rates per second; share: goodput / capacity; failed: errors and requests without an answer.

    times in milliseconds; cpu_cores: of the whole service.
    """

    load: float
    offered: float
    goodput: float
    share: float
    late: float
    refused: float
    expired: float
    failed: float
    p50_ms: float
    refusal_p50_ms: float
    cpu_cores: float


def main(
    model: Annotated[str, typer.Option(help="A packaged model with fixed cost a request.")] = "fashion-resnet",
    deadline_ms: Annotated[float, typer.Option(help="Deadline of the open loop.")] = 100.0,
    seconds: Annotated[float, typer.Option(help="Length of each load.", min=1)] = 6.0,
    option: Annotated[list[str] | None, typer.Option(help="Passed to `swan serve`, such as --replicas=2.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records here.")] = None,
) -> None:
    """Goodput of the whole service at 0.8, 1.5 and 3 times its capacity."""
    console = table_console(highlight=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Path(folder), tuple(option or ()), {"SWAN_MODELS": json.dumps([model])}) as target,
    ):
        capacity, records = asyncio.run(_measure(target, model, deadline_ms / 1e3, seconds))
    console.print(table(capacity, records))
    if json_file is not None:
        content = {"capacity": capacity, "records": [asdict(record) for record in records]}
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


async def _measure(target: Target, model: str, deadline_s: float, seconds: float) -> tuple[float, list[Record]]:
    patient, hurried = _client(target, model, PATIENCE_US), _client(target, model, round(deadline_s * 1e6))
    try:
        await _closed_loop(patient, seconds / 3)
        capacity = await _closed_loop(patient, seconds)
        return capacity, [await _open_loop(target, hurried, load, capacity, (deadline_s, seconds)) for load in LOADS]
    finally:
        await patient.close()
        await hurried.close()


LOADS = (0.8, 1.5, 3.0)


def _client(target: Target, model: str, timeout_us: int) -> HttpClient:
    path = f"/v2/models/{model}"
    spec = input_spec(httpx.get(target.url + path, trust_env=False, headers=dict(target.headers), timeout=30.0).json())
    wishes = {"timeout": timeout_us, "quality": "full"}
    bodies = [http_binary(sample, spec, wishes) for sample in samples_for(spec, NUM_SAMPLES)]
    return HttpClient(target.url, f"{path}/infer", bodies, 60.0, target.headers)


async def _closed_loop(client: HttpClient, seconds: float) -> float:
    """Answers a second to CLIENTS clients that never give up."""
    ends_s, answered = time.perf_counter() + seconds, 0

    async def one(number: int) -> None:
        nonlocal answered
        while time.perf_counter() < ends_s:
            answer = await client.send(number % NUM_SAMPLES)
            if answer.outcome is not Outcome.OK:
                raise RuntimeError(f"the service answered {answer.detail}")
            answered += 1

    began = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(CLIENTS)))
    return answered / (time.perf_counter() - began)


async def _open_loop(
    target: Target, client: HttpClient, load: float, capacity: float, span: tuple[float, float]
) -> Record:
    deadline_s, seconds = span
    times = arrivals(constant(load * capacity), seconds, seed=1)
    plan = generator.Plan(times, np.arange(times.size) % NUM_SAMPLES, np.full(times.size, deadline_s))
    assert target.pid is not None
    cpu, began = process_tree.cpu_seconds(target.pid), time.perf_counter()
    run = await generator.run(plan, client, _no_score)
    wall_s = time.perf_counter() - began
    cores = (process_tree.cpu_seconds(target.pid) - cpu) / wall_s
    answered, refused = run.outcome == Outcome.OK, np.isin(run.outcome, TURNED_AWAY)
    ended = outcomes_of([run])
    goodput = ended.on_time / seconds
    return Record(
        load=load,
        offered=times.size / seconds,
        goodput=goodput,
        share=goodput / capacity,
        late=ended.late / seconds,
        refused=ended.refused / seconds,
        expired=ended.expired / seconds,
        failed=ended.failed / seconds,
        p50_ms=_median_ms(run.latency[answered]),
        refusal_p50_ms=_median_ms(run.latency[refused]),
        cpu_cores=cores,
    )


def _no_score(sample: int, answer: Answer) -> float:
    return float("nan")


def _median_ms(values: np.ndarray) -> float:
    return float(np.median(values)) * 1e3 if values.size else float("nan")


def table(capacity: float, records: list[Record]) -> Table:
    shown = Table(box=None, title=f"capacity {capacity:.0f}/s in a closed loop of {CLIENTS}")
    for column in (
        "load",
        "offered/s",
        "goodput/s",
        "of capacity",
        "late/s",
        "refused/s",
        "expired/s",
        "failed/s",
        "p50 ms",
        "refusal ms",
        "cores",
    ):
        shown.add_column(column, justify="right")
    for one in records:
        rates = (
            f"{one.offered:.0f}",
            f"{one.goodput:.0f}",
            f"{one.share:.0%}",
            f"{one.late:.0f}",
            f"{one.refused:.0f}",
            f"{one.expired:.0f}",
            f"{one.failed:.0f}",
        )
        times = (f"{one.p50_ms:.1f}", f"{one.refusal_p50_ms:.1f}", f"{one.cpu_cores:.2f}")
        shown.add_row(f"{one.load:g}", *rates, *times)
    return shown
