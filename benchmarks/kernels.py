"""`swan bench kernels`: our kernels against dense in one process, one thread, same weights, gate and mask included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.kernel_cases import Case, conv_cases, own_mask_cases, shared_mask_cases
from benchmarks.kernel_more_cases import cats_cases, half_cases, input_cases
from benchmarks.kernel_plot import plot
from benchmarks.kernel_timing import DenseBaseline, Record, measure
from service.commands.tables import table_console

SHAPES = ((384, 1536), (576, 1536), (768, 3072), (1024, 4096), (784, 1024))
DENSITIES = (0.05, 0.1, 0.3, 0.5, 0.7, 0.85, 1.0)
QUICK_SHAPES = ((384, 1536), (768, 3072))
QUICK_DENSITIES = (0.1, 0.3, 0.5, 1.0)
# mask, rows, density -> least share of the ideal that the project promises (issue 2).
FLOORS = {
    **{("own", 1, density): 0.90 for density in (0.1, 0.3, 0.5)},
    ("own", 8, 0.1): 0.60,
    ("own", 8, 0.3): 0.80,
    ("own", 32, 0.3): 0.60,
    ("own", 64, 0.3): 0.55,
    **{("shared", rows, density): 0.93 for rows in (64, 128, 256) for density in (0.3, 0.5)},
    ("conv", 1, 0.3): 0.70,
    ("conv", 1, 0.5): 0.85,
}
DENSE_TOLERANCE = 1.05
REPORT_EVERY = 50  # cases, where the output is not a terminal and shows no bar


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the records to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer shapes, densities and rounds: under a minute.")] = False,
    plot_dir: Annotated[Path | None, typer.Option("--plot", help="Write kernels.png into this directory.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Most rounds a case.")] = 400,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Time a case; default .4, with --quick .25.")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Also time torch.compile.")] = True,
    shape: Annotated[list[str] | None, typer.Option(help="Only these shapes, e.g. 384x1536; may be repeated.")] = None,
    mask: Annotated[list[str] | None, typer.Option(help="Only these regimes, e.g. own; may be repeated.")] = None,
    rows: Annotated[list[int] | None, typer.Option(help="Only so many rows; may be repeated.")] = None,
    earlier: Annotated[list[Path] | None, typer.Option("--with", help="Report a --json file as well.")] = None,
) -> None:
    """Speed-up over dense and share of the ideal 1/(density + gate share), for every regime, on this machine."""
    console = table_console()
    torch.set_num_threads(1)
    baseline = DenseBaseline(compiled, console)
    wanted = ((shape, "shape"), (mask, "mask"), (rows, "rows"))
    cases = [c for c in _cases(quick) if all(not only or getattr(c, name) in only for only, name in wanted)]
    records = [Record(**fields) for path in earlier or () for fields in json.loads(path.read_text(encoding="utf-8"))]
    limit = seconds or (0.25 if quick else 0.4)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with torch.inference_mode(), Progress(*columns, console=console) as progress:
        task = progress.add_task("measuring", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.shape} {case.mask} x{case.rows} at {case.density}")
            records.append(measure(case, baseline, limit, rounds))
            progress.advance(task)
            if not console.is_terminal and len(records) % REPORT_EVERY == 0:
                console.print(f"{len(records)} of {len(cases)} cases")
    console.print(table(records))
    for line in summary(records):
        console.print(line)
    if json_file:
        json_file.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n", encoding="utf-8")
    if plot_dir:
        console.print(f"wrote {plot(records, plot_dir)}")


def _cases(quick: bool) -> Iterator[Case]:
    shapes, densities = (QUICK_SHAPES, QUICK_DENSITIES) if quick else (SHAPES, DENSITIES)
    for shape in shapes:
        yield from own_mask_cases(shape, (1, 8, 32, 64), densities)
        yield from shared_mask_cases(shape, (64, 256) if quick else (64, 128, 256), densities)
        for more in (half_cases, cats_cases, input_cases):
            yield from more(shape, (1, 8) if quick else (1, 8, 32, 64), densities)
    yield from conv_cases(quick, densities)


def table(records: list[Record]) -> Table:
    """One line a record; green where a promised floor is reached, red where it is missed."""
    view = Table(title="one thread, best of interleaved rounds, gate and mask included")
    names = "shape rows mask density dense control ours speed-up of-ideal kernel GF/s GB/s"
    for name in names.split():
        view.add_column(name, justify="right")
    for r in records:
        floor = FLOORS.get((r.mask, r.rows, r.density))
        style = None if floor is None else "green" if r.share_of_ideal >= floor else "red"
        view.add_row(
            r.shape,
            str(r.rows),
            r.mask,
            f"{r.density:.2f}",
            f"{r.dense_ms:.3f} {r.dense}",
            f"{r.control_speedup:.2f}x",
            f"{r.ours_ms:.3f}",
            f"{r.speedup:.2f}x",
            f"{r.share_of_ideal:.2f}",
            r.kernel,
            f"{r.gflops:.0f}",
            f"{r.gbytes:.0f}",
            style=style,
        )
    return view


def summary(records: list[Record]) -> list[str]:
    """What was promised and what came out."""
    lines = []
    for (mask, rows, density), floor in FLOORS.items():
        shares = [r.share_of_ideal for r in records if (r.mask, r.rows, r.density) == (mask, rows, density)]
        if shares:
            median = sorted(shares)[len(shares) // 2]
            verdict = "pass" if min(shares) >= floor else "MISS"
            lines.append(
                f"{mask} masks, {rows} rows, density {density}: share of ideal {min(shares):.2f}..{max(shares):.2f}, "
                f"median {median:.2f} (floor {floor:.2f}: {verdict})"
            )
    for mask in dict.fromkeys(r.mask for r in records):
        worst = max((r for r in records if r.mask == mask), key=lambda r: r.ours_ms / r.dense_ms)
        ratio = worst.ours_ms / worst.dense_ms
        lines.append(
            f"{mask}: slowest against dense: {ratio:.2f}x at {worst.shape}, {worst.rows} rows, density {worst.density} "
            f"(limit {DENSE_TOLERANCE}: {'pass' if ratio <= DENSE_TOLERANCE else 'MISS'})"
        )
    controls = [r.control_speedup for r in records]
    lines.append(f"mask-multiply control: {min(controls):.2f}x..{max(controls):.2f}x (skips nothing: about 1.0x)")
    return lines
