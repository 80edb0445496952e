"""`swan bench models`: quality, activity, MACs and time of every budget, beside dense, static and other rivals."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.models_card import write_card
from benchmarks.models_contenders import Entry, contenders
from benchmarks.models_exam import Exam, ImageExam, TextExam
from benchmarks.models_measure import Result, examine, time_all
from benchmarks.models_plot import plot
from benchmarks.models_records import Record, records_of
from benchmarks.models_targets import difficulty, verdicts
from models.errors import BaseWeightsMissing
from models.gated import GatedServable, package_table
from models.package import read_package
from models.registry import find_package, find_packages, load_package, shipped_repository
from models.text import TextCodec
from service.commands.tables import table_console
from swan_runtime.errors import FieldError

BATCHES = (1, 16)
ROUNDS = {1: 31, 16: 11}


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records to this file.")] = None,
    plot_dir: Annotated[Path | None, typer.Option("--plot", help="Write NAME.png of each model here.")] = None,
    quick: Annotated[bool, typer.Option(help="Less data, fewer budgets: under a minute.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="Only these packages; default: all gated ones.")] = None,
    rivals: Annotated[Path, typer.Option(help="Where models.recipes.rivals wrote its networks.")] = Path("out/rivals"),
    repository: Annotated[Path | None, typer.Option(help="Folder of packages; default: those that ship.")] = None,
    cards: Annotated[bool, typer.Option(help="Write README.md and its plot into each package.")] = False,
) -> None:
    """Test data, one thread for times; ms are medians of ratios to the dense network, interleaved."""
    console = table_console()
    packages = repository or shipped_repository()
    names = model or sorted({path.parent.name for path in find_packages(packages)})
    records: list[Record] = []
    for name in names:
        try:
            entry = enter(packages, name, rivals, quick, console)
        except BaseWeightsMissing as error:
            console.print(f"[yellow]{name} left out: {error}[/yellow]")
            continue
        except FieldError as error:
            console.print(f"[red]{error}[/red]")
            raise typer.Exit(2) from None
        if entry is None:
            continue
        results = run(entry, console)
        records += records_of(results)
        report(results, console)
        if plot_dir:
            console.print(f"wrote {plot(results, plot_dir / f'{name}.png')}")
        if cards:
            console.print(f"wrote {write_card(read_package(find_package(packages, name)), results)}")
    if json_file:
        json_file.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n", encoding="utf-8")


def enter(repository: Path, name: str, rivals: Path, quick: bool, console: Console) -> Entry | None:
    """None for a package without gates: there is nothing to compare."""
    path = find_package(repository, name)
    loaded = load_package(path)
    if not isinstance(loaded, GatedServable):
        console.print(f"{name}: no gates, left out")
        return None
    return Entry(name, loaded, package_table(read_package(path)), rivals / name, quick, console.print)


def exam_of(entry: Entry) -> Exam:
    """Raises FieldError for a model whose inputs are neither the shipped images nor texts."""
    if isinstance(entry.model.codec, TextCodec):
        return TextExam(entry.model.codec, 48 if entry.quick else 1500)
    spec = entry.model.spec.inputs[0]
    if spec.shape != (784,):
        expected = "pictures [784] or texts, for which test data ships (swan calibrate measures on your own)"
        raise FieldError("inputs", expected, f"{spec.name} {list(spec.shape)}")
    return ImageExam(1000 if entry.quick else 10_000)


def run(entry: Entry, console: Console) -> list[Result]:
    """Quality on all cores, then times on one thread. The dense network comes first."""
    exam = exam_of(entry)
    cores = os.cpu_count() or 1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{entry.name}: networks", total=None)
        torch.set_num_threads(cores)
        entry.model.runtime.threads = cores
        results = []
        for contender in contenders(entry, exam):
            progress.update(task, description=f"{entry.name}: {contender.label} at {contender.budget:g}")
            results.append(examine(contender, exam))
            progress.advance(task)
        progress.remove_task(task)
        torch.set_num_threads(1)
        for result in results:
            result.contender.use_threads(1)
        for batch in BATCHES:
            rounds = max(3, ROUNDS[batch] // (4 if entry.quick else 1))
            task = progress.add_task(f"{entry.name}: time at batch {batch}", total=rounds)
            time_all(results, exam, batch, rounds, lambda task=task: progress.advance(task))  # type: ignore[misc]
    return results


def report(results: Sequence[Result], console: Console) -> None:
    """The table, what is harder, and every target with its margin."""
    console.print(table(results))
    for line in difficulty(results):
        console.print(line)
    for verdict in verdicts(results):
        console.print(f"[{'green' if verdict.met else 'red'}]{verdict}[/]")


def table(results: Sequence[Result]) -> Table:
    dense = results[0]
    metrics = list(dense.quality)
    title = f"{dense.contender.model}: {dense.n} test samples; ms a request on one thread, batch 1 / 16"
    view = Table(title=title)
    view.add_column("network")
    for name in ("budget", *metrics, "activity", "p99", "MACs", "of dense", "ms @1", "ms @16", "x @1", "of bound"):
        view.add_column(name, justify="right")
    for result in sorted(results, key=lambda r: (r.variant != "dense", r.variant, r.contender.label, r.budget)):
        record = records_of([dense, result])[-len(metrics) * len(BATCHES)]
        view.add_row(
            result.contender.label,
            f"{result.budget:.2f}",
            *(f"{result.quality[name]:.4f}" for name in metrics),
            f"{record.activity_mean:.1%}",
            f"{record.activity_p99:.1%}",
            f"{result.macs / 1e6:.2f}M",
            f"{result.macs / dense.macs:.1%}",
            f"{result.ms[1]:.3f}",
            f"{result.ms[16]:.3f}",
            f"{dense.ms[1] / result.ms[1]:.2f}",
            f"{record.amdahl_share:.0%}",
        )
    return view
