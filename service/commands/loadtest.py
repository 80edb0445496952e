"""`swan loadtest`: play a traffic scenario against a service and write a report."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from service.commands.tables import table_console

if TYPE_CHECKING:
    from loadtests.chaos import Chaos
    from loadtests.play import Options, Played
    from loadtests.scenarios import Scenario
    from loadtests.target import Target

CAPACITY, TRACE = "capacity", "trace"

app = typer.Typer(add_completion=False)


@app.command()
def command(
    scenario: Annotated[str, typer.Argument(help="What to play; see the list below.")],
    url: Annotated[str | None, typer.Option(help="A running service; default: one is started for the test.")] = None,
    grpc: Annotated[str, typer.Option(help="Its gRPC address, for --protocol grpc.")] = "127.0.0.1:8001",
    key: Annotated[str | None, typer.Option(help="API key with infer and admin scope.", envvar="SWAN_API_KEY")] = None,
    pid: Annotated[
        int | None, typer.Option(help="Process of a `swan serve` at --url: its memory is recorded, chaos can reach it.")
    ] = None,
    model: Annotated[str, typer.Option(help="Model to send to.")] = "fashion-resnet",
    protocol: Annotated[str, typer.Option(help="http (binary), http-json or grpc.")] = "http",
    deadline_ms: Annotated[float | None, typer.Option(help="Deadline; default: 10 x the unloaded p50.")] = None,
    rounds: Annotated[int, typer.Option(help="Blocks of each policy.", min=1, max=50)] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the schedules and of the blocks' order.")] = 1,
    trace: Annotated[
        Path | None, typer.Option(help='Arrivals for `trace`: one {"t": seconds} a line.', exists=True, dir_okay=False)
    ] = None,
    speed: Annotated[float, typer.Option(help="Play the trace so many times as fast.", min=0.001)] = 1.0,
    report: Annotated[Path | None, typer.Option(help="Folder for HTML, JSON and PNG.")] = None,
) -> None:
    """Play a scenario: capacity first, then blocks of each policy, shuffled; latency counts from the intended send.

    smoke, step, spike, bursts, overload, mixed-deadlines, soak: traffic in multiples of the measured capacity.
    capacity: the highest rate within the SLO. replica-kill, rolling-update: one of two replicas is
    killed, or both are replaced one after the other, under load. trace: recorded arrivals at their own rate.
    """
    from loadtests.chaos import Chaos
    from loadtests.play import Options
    from loadtests.target import Target, TargetError, started

    console = table_console(highlight=False)

    @contextlib.contextmanager
    def service() -> Iterator[Target]:
        if url is not None:
            yield Target(url.rstrip("/"), grpc, {"authorization": f"Bearer {key}"} if key else {}, pid)
            return
        with tempfile.TemporaryDirectory() as folder:
            console.print("starting a service for the test ...")
            replicas = ("--replicas", "2") if isinstance(chosen, Chaos) else ()
            with started(Path(folder), replicas) as target:
                yield target

    try:
        chosen = _chosen(scenario, trace, speed)
        with service() as target:
            if chosen is None:
                uvloop.run(_capacity(target, model, protocol, deadline_ms, console))
            else:
                deadline_s = deadline_ms / 1e3 if deadline_ms else None
                options = Options(deadline_s, rounds, seed, model, protocol, target)
                uvloop.run(_play(chosen, target, options, report, console))
    except (TargetError, RuntimeError, ValueError) as problem:
        console.print(f"[red]{problem}[/]")
        raise typer.Exit(2) from None


def _chosen(name: str, trace: Path | None, speed: float) -> Scenario | Chaos | None:
    """None: the search for the capacity, which is no scenario. Raises ValueError for what there is not."""
    from loadtests.chaos import CHAOS
    from loadtests.scenarios import SCENARIOS, traced
    from loadtests.schedules import replay

    known = [*SCENARIOS, *CHAOS, CAPACITY, TRACE]
    if name not in known:
        raise ValueError(f"unknown scenario {name!r}; there are {', '.join(known)}")
    if (trace is None) == (name == TRACE):
        raise ValueError("`trace` needs --trace FILE, and only `trace` takes it")
    if trace is not None:
        return traced(replay(trace, speed), trace.name)
    return SCENARIOS.get(name) or CHAOS.get(name)


async def _play(
    chosen: Scenario | Chaos, target: Target, options: Options, folder: Path | None, console: Console
) -> None:
    from loadtests.chaos import Chaos, disturb
    from loadtests.live import LiveView
    from loadtests.play import play
    from loadtests.session import service_session

    session = service_session(target, options.model, options.protocol)
    with LiveView(console) as live:
        if not isinstance(chosen, Chaos):
            played = await play(chosen, session, options, console.print, live.update)
        elif target.pid is not None:
            played = await disturb(chosen, session, target.pid, options, console.print, live.update)
        else:
            raise ValueError("chaos needs the service's processes: add --pid, or leave out --url to have one started")
    _show(played, folder, console)


def _show(played: Played, folder: Path | None, console: Console) -> None:
    from loadtests import report
    from loadtests.tables import messages, tables
    from loadtests.verdict import checks, conclusion

    console.print(f"[bold]{played.scenario.name}[/]: {played.scenario.says}")
    for rows in tables(played):
        table = Table(*rows.head, title=rows.title)
        for row in rows.rows:
            table.add_row(*row)
        console.print(table)
    for text in messages(played):
        console.print(text, markup=False)
    for check in checks(played):
        console.print(f"{'met   ' if check.passed else 'MISSED'} {check.claim}: {check.got} (wanted {check.wanted})")
    console.print(conclusion(played))
    if folder is not None:
        page = report.write(played, folder, "swan " + " ".join(sys.argv[1:]))
        console.print(f"report: {page}")


async def _capacity(target: Target, model: str, protocol: str, deadline_ms: float | None, console: Console) -> None:
    from loadtests.capacity import measure
    from loadtests.play import unloaded_deadline_s
    from loadtests.session import Variant, service_session

    session = service_session(target, model, protocol)
    await session.reference()
    deadline_s = deadline_ms / 1e3 if deadline_ms else await unloaded_deadline_s(session)
    table = Table(
        "quality", "requests/s", "p50 ms", "p99 ms", "score", "budget", title=f"{model}, {deadline_s * 1e3:.0f} ms"
    )
    for quality in ("full", "auto"):
        found = await measure(session, Variant(deadline_s, {"quality": quality}), console.print)
        best = found.best
        cells = [f"{v:.4g}" for v in (best.p50_ms, best.p99_ms, best.accuracy, best.budget_mean)] if best else ["-"] * 4
        table.add_row(quality, f"{found.rate:.0f}", *cells)
    console.print(table)
