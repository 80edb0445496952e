"""`swan simulate`: budget policies on traffic shapes, in simulated time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from service.simulator.engine import Run
from service.simulator.plant import reference_plant
from service.simulator.report import (
    CLAIRVOYANT,
    POLICIES,
    STATIC,
    Record,
    Scenario,
    Summary,
    as_json,
    simulate_all,
    summarise,
)
from service.simulator.shapes import SHAPES
from service.simulator.targets import Target, judge, judge_overload
from service.simulator.workload import equal_deadlines, mixed_deadlines

app = typer.Typer(
    help="Simulate budget policies on traffic shapes; the policy classes are those that the service runs."
)

REFERENCE = "reference"
RATE = 10_000 / 60  # requests per second at full budget from which on the default run gets shorter
NAMES = [*POLICIES, STATIC, CLAIRVOYANT]
DEFAULT_POLICIES = ["drain-feasible", "slackfit-0", "slackfit-30", "dimmer-tuned", "aimd-tuned", STATIC, CLAIRVOYANT]


@app.callback(invoke_without_command=True)
def simulate(
    policy: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join([*POLICIES, STATIC, CLAIRVOYANT])}, or all.")
    ] = None,
    shape: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(SHAPES)}; default all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to run.")] = 1,
    first_seed: Annotated[int, typer.Option(min=0, help="1 to 9 chose the constants, 100 on are held out.")] = 100,
    duration: Annotated[
        float | None,
        typer.Option(min=1.0, help=f"Simulated seconds of one run; default 60, less beyond {RATE:g} requests/s."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker threads of the replica.")] = 1,
    mixed: Annotated[bool, typer.Option(help="Mixed deadlines, priorities and pinned requests.")] = False,
    model: Annotated[str, typer.Option(help="A packaged model, measured now, or the reference plant.")] = REFERENCE,
    targets: Annotated[bool, typer.Option(help="Judge the law by its targets, overload included.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write one record a run.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Folder for plots: one per shape.")] = None,
) -> None:
    """Print one line a policy; exit 2 on an unknown name."""
    policies = NAMES if policy == ["all"] else policy or DEFAULT_POLICIES
    _check("policy", policies, NAMES)
    shapes = shape or list(SHAPES)
    _check("shape", shapes, list(SHAPES))
    scenario = _scenario(model, mixed, workers, duration)
    results = list(_watched(simulate_all(scenario, policies, shapes, range(first_seed, first_seed + seeds))))
    records = [record for record, _ in results]
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(records), indent=1) + "\n", encoding="utf-8")
    for line in _lines(summarise(records)):
        typer.echo(line)
    if targets:
        for target in (*judge(summarise(records)), *judge_overload(scenario, first_seed)):
            typer.echo(_verdict(target))
    if plot is not None:
        from service.simulator.plots import plot_runs

        for path in plot_runs(results, scenario, plot, first_seed):
            typer.echo(path)


def _check(name: str, given: list[str], allowed: list[str]) -> None:
    for value in given:
        if value not in allowed:
            raise typer.BadParameter(f"expected one of {', '.join(allowed)}, got {value!r}", param_hint=f"--{name}")


def _watched(runs: Iterator[tuple[Record, Run | None]]) -> Iterator[tuple[Record, Run | None]]:
    """Say on stderr what is done, run by run: a model that serves thousands per second takes minutes."""
    for record, run in runs:
        typer.echo(f"{record.shape} {record.seed} {record.policy}: {record.attainment:.4f} on time", err=True)
        yield record, run


def _scenario(model: str, mixed: bool, workers: int, duration: float | None) -> Scenario:
    from service.simulator.measured import measured_plant

    plant = reference_plant() if model == REFERENCE else measured_plant(model, workers)
    dress = mixed_deadlines if mixed else equal_deadlines
    traffic = dress(plant.plan.name, plant.plan.default_deadline_s, plant.intensity_sigma)
    scenario = Scenario(plant, traffic, workers, in_batches=model != REFERENCE)
    return replace(scenario, duration_s=duration or min(60.0, max(4.0, 60.0 * RATE / scenario.scale.full)))


def _verdict(target: Target) -> str:
    relation = ">=" if target.at_least else "<="
    return f"{'pass' if target.met else 'MISS'}  {target.name:52s} {target.value:8.4f}  {relation} {target.goal:g}"


def _lines(summaries: list[Summary]) -> Iterator[str]:
    """One line a policy, for a terminal, a pipe and grep alike."""
    yield f"{'policy':20s} attainment   worst  effective    NEA    misses    late  p99 ms  bad s  jitter  regret"
    for s in summaries:
        regret = "" if s.regret is None else f"{s.regret:7.3f}"
        yield (
            f"{s.policy:20s} {s.attainment:10.5f} {s.worst:7.4f} {s.effective_accuracy:10.4f}"
            f" {s.normalised_accuracy:6.3f} {s.misses:9.2e} {s.late_ratio:7.4f} {s.p99_s * 1e3:7.1f}"
            f" {s.bad_seconds:6.1f} {s.budget_jitter:7.3f} {regret}"
        )
