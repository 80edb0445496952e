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
    from loadtests.play import Played
    from loadtests.target import Target

CHAOS = ("replica-kill", "rolling-update")
SPECIAL = ("capacity", *CHAOS)

app = typer.Typer(add_completion=False)


def _scenarios() -> str:
    from loadtests.scenarios import SCENARIOS

    return ", ".join([*SCENARIOS, *SPECIAL])


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
    from loadtests.scenarios import SCENARIOS
    from loadtests.target import Target, TargetError, started

    console = table_console(highlight=False)
    if scenario not in SCENARIOS and scenario not in SPECIAL:
        console.print(f"[red]unknown scenario {scenario!r}[/]; there are {_scenarios()}")
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
            if scenario == "capacity":
                uvloop.run(_capacity(target, model, protocol, deadline_ms, console))
            elif scenario in CHAOS:
                uvloop.run(_disturb(scenario, target, (model, protocol, deadline_ms), console))
            else:
                uvloop.run(_play(scenario, target, (model, protocol, deadline_ms, rounds, seed), report, console))
    except (TargetError, RuntimeError, ValueError) as problem:
        console.print(f"[red]{problem}[/]")
        raise typer.Exit(2) from None


async def _play(
    name: str,
    target: Target,
    options: tuple[str, str, float | None, int, int],
    folder: Path | None,
    console: Console,
) -> None:
    from loadtests import report
    from loadtests.play import Options, play
    from loadtests.scenarios import SCENARIOS
    from loadtests.session import service_session
    from loadtests.verdict import conclusion

    model, protocol, deadline_ms, rounds, seed = options
    session = service_session(target, model, protocol)
    control = target.control if target.headers else None
    choice = Options(deadline_ms / 1e3 if deadline_ms else None, rounds, seed, model, protocol, control)
    from loadtests.live import LiveView

    with LiveView(console) as live:
        played = await play(SCENARIOS[name], session, choice, console.print, live.update)
    console.print(_table(played))
    console.print(conclusion(played))
    if folder is not None:
        page = report.write(played, folder, "swan " + " ".join(sys.argv[1:]))
        console.print(f"report: {page}")


def _table(played: Played) -> Table:
    from loadtests.play import ADAPTIVE, FIXED
    from loadtests.report import ROWS

    policies = [policy for policy in (ADAPTIVE, FIXED) if played.of(policy)]
    table = Table("", *policies, title=f"{played.scenario.name}: {played.scenario.says}")
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


async def _disturb(what: str, target: Target, options: tuple[str, str, float | None], console: Console) -> None:
    from loadtests.capacity import measure
    from loadtests.chaos import disturb
    from loadtests.play import unloaded_deadline_s
    from loadtests.session import Variant, service_session

    if target.pid is None:
        raise ValueError(f"{what} starts a service of its own: leave out --url")
    model, protocol, deadline_ms = options
    session = service_session(target, model, protocol)
    await session.reference()
    deadline_s = deadline_ms / 1e3 if deadline_ms else await unloaded_deadline_s(session)
    capacity = await measure(session, Variant(deadline_s, {"quality": "full"}), console.print)
    console.print(f"half of the full-budget capacity: {0.5 * capacity.rate:.0f}/s on two replicas")
    rate, variant = 0.5 * capacity.rate, Variant(deadline_s, {})
    found = await disturb(session, target.pid, rate, variant, what, console.print)
    table = Table("requests", "on time", "late", "errors", "without an answer", "last trouble after", "replaced")
    table.add_row(
        str(found.summary.requests),
        f"{found.summary.on_time_ratio:.2%}",
        f"{found.summary.late_ratio:.2%}",
        str(found.failed),
        str(found.unanswered),
        f"{found.recovered_after_s:.1f} s",
        "yes" if found.replaced else "no",
    )
    console.print(table)
