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
    from loadtests.play import Options, Played
    from loadtests.target import Target

CAPACITY = "capacity"

app = typer.Typer(add_completion=False)


@app.command()
def command(
    scenario: Annotated[str, typer.Argument(help="What to play; see the list below.")],
    url: Annotated[str | None, typer.Option(help="A running service; default: one is started for the test.")] = None,
    grpc: Annotated[str, typer.Option(help="Its gRPC address, for --protocol grpc.")] = "127.0.0.1:8001",
    key: Annotated[str | None, typer.Option(help="API key with infer and admin scope.", envvar="SWAN_API_KEY")] = None,
    model: Annotated[str, typer.Option(help="Model to send to.")] = "fashion-resnet",
    protocol: Annotated[str, typer.Option(help="http (binary), http-json or grpc.")] = "http",
    deadline_ms: Annotated[float | None, typer.Option(help="Deadline; default: 10 x the unloaded p50.")] = None,
    rounds: Annotated[int, typer.Option(help="Blocks of each policy.", min=1, max=50)] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the schedules and of the blocks' order.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Folder for HTML, JSON and PNG.")] = None,
) -> None:
    """Play a scenario: capacity first, then blocks of each policy, shuffled; latency counts from the intended send.

    smoke, step, spike, bursts, overload, mixed-deadlines, soak: traffic in multiples of the measured capacity.
    capacity: the highest rate within the SLO. replica-kill, rolling-update: one of two replicas is
    killed, or both are replaced one after the other, under load.
    """
    from loadtests.chaos import CHAOS
    from loadtests.play import Options
    from loadtests.scenarios import SCENARIOS
    from loadtests.target import Target, TargetError, started

    console = table_console(highlight=False)
    known = [*SCENARIOS, CAPACITY, *CHAOS]
    if scenario not in known:
        console.print(f"[red]unknown scenario {scenario!r}[/]; there are {', '.join(known)}")
        raise typer.Exit(2)

    @contextlib.contextmanager
    def service() -> Iterator[Target]:
        if url is not None:
            yield Target(url.rstrip("/"), grpc, {"authorization": f"Bearer {key}"} if key else {})
            return
        with tempfile.TemporaryDirectory() as folder:
            console.print("starting a service for the test ...")
            replicas = ("--replicas", "2") if scenario in CHAOS else ()
            with started(Path(folder), replicas) as target:
                yield target

    try:
        with service() as target:
            if scenario == CAPACITY:
                uvloop.run(_capacity(target, model, protocol, deadline_ms, console))
            else:
                deadline_s = deadline_ms / 1e3 if deadline_ms else None
                options = Options(deadline_s, rounds, seed, model, protocol, target)
                uvloop.run(_play(scenario, target, options, report, console))
    except (TargetError, RuntimeError, ValueError) as problem:
        console.print(f"[red]{problem}[/]")
        raise typer.Exit(2) from None


async def _play(name: str, target: Target, options: Options, folder: Path | None, console: Console) -> None:
    from loadtests.chaos import CHAOS, disturb
    from loadtests.live import LiveView
    from loadtests.play import play
    from loadtests.scenarios import SCENARIOS
    from loadtests.session import service_session

    if name in CHAOS and target.pid is None:
        raise ValueError(f"{name} starts a service of its own: leave out --url")
    session = service_session(target, options.model, options.protocol)
    with LiveView(console) as live:
        if name in CHAOS and target.pid is not None:
            played = await disturb(CHAOS[name], session, target.pid, options, console.print, live.update)
        else:
            played = await play(SCENARIOS[name], session, options, console.print, live.update)
    _show(played, folder, console)


def _show(played: Played, folder: Path | None, console: Console) -> None:
    from loadtests import report
    from loadtests.verdict import checks, conclusion

    console.print(_table(played))
    for text in report.messages(played):
        console.print(text, markup=False)
    for check in checks(played):
        console.print(f"{'met   ' if check.passed else 'MISSED'} {check.claim}: {check.got} (wanted {check.wanted})")
    console.print(conclusion(played))
    if folder is not None:
        page = report.write(played, folder, "swan " + " ".join(sys.argv[1:]))
        console.print(f"report: {page}")


def _table(played: Played) -> Table:
    from loadtests.report import ROWS, outcome_rows, policies_of

    policies = policies_of(played)
    table = Table("", *policies, title=f"{played.scenario.name}: {played.scenario.says}")
    for label, counts in outcome_rows(played):
        table.add_row(f"requests: {label}", *counts)
    table.add_section()
    for label, field, form in ROWS:
        table.add_row(label, *(form.format(played.average(policy, field)) for policy in policies))
    return table


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
