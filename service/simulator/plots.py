"""Pictures of runs: for each shape, every policy over time, one column a policy, so that rows compare at a glance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service.simulator.engine import Run
from service.simulator.report import Record, Scenario
from service.simulator.workload import Floats

BIN_S = 0.5
ROWS = ("offered load", "budget", "activity", "p99 / deadline", "missed")
OFFERED, COMMANDED, MEASURED, LATENCY, MISSED = "#4c566a", "#2b6cb0", "#38a169", "#805ad5", "#c53030"


def plot_runs(results: Iterable[tuple[Record, Run | None]], scenario: Scenario, folder: Path, seed: int) -> list[Path]:
    """Write SHAPE.png for every shape of one seed; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = [(record, run) for record, run in results if run is not None and record.seed == seed]
    files = []
    for shape in dict.fromkeys(record.shape for record, _ in runs):
        files.append(folder / f"{shape}.png")
        _plot_shape([(r, run) for r, run in runs if r.shape == shape], scenario, files[-1])
    return files


def _plot_shape(runs: Sequence[tuple[Record, Run]], scenario: Scenario, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(ROWS), len(runs), figsize=(1.2 + 2.9 * len(runs), 8.5), sharex=True, sharey="row", squeeze=False
    )
    for column, (record, run) in enumerate(runs):
        _plot_run(axes[:, column], run, scenario)
        axes[0, column].set_title(
            f"{record.policy}\non time {record.attainment:.2%}, effective {record.effective_accuracy:.3f}", fontsize=9
        )
        axes[-1, column].set_xlabel("seconds")
    for row, name in enumerate(ROWS):
        axes[row, 0].set_ylabel(name)
    figure.suptitle(
        f"{scenario.plant.plan.name}, shape '{runs[0][0].shape}': load in multiples of full-budget capacity",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _plot_run(axes: Sequence[Any], run: Run, scenario: Scenario) -> None:
    duration = run.workload.duration_s
    edges = np.arange(0.0, duration + BIN_S, BIN_S)
    middles = edges[:-1] + BIN_S / 2
    arrivals = np.array([request.arrival_s for request in run.workload.requests])
    load = np.histogram(arrivals, edges)[0] / BIN_S / scenario.scale.full
    axes[0].fill_between(middles, load, step="mid", color=OFFERED, alpha=0.5, linewidth=0)
    axes[0].axhline(1.0, color=OFFERED, linewidth=0.8, linestyle=":")
    served = run.served
    times = np.array([answer.arrival_s for answer in served])
    axes[1].plot(middles, _binned(times, [a.budget for a in served], edges, np.mean), color=COMMANDED, linewidth=1.2)
    axes[1].set_ylim(0, 1.05)
    axes[2].plot(middles, _binned(times, [a.activity for a in served], edges, np.mean), color=MEASURED, linewidth=1.2)
    axes[2].set_ylim(0, 1.05)
    ratios = [(a.finish_s - a.arrival_s) / (a.deadline_s - a.arrival_s) for a in served]
    axes[3].plot(middles, _binned(times, ratios, edges, _p99), color=LATENCY, linewidth=1.2)
    axes[3].axhline(1.0, color=MISSED, linewidth=0.8, linestyle="--")
    axes[3].set_ylim(0, 2.5)
    late = [a.arrival_s for a in served if not a.on_time] + [r.arrival_s for r in run.refused]
    missed = np.histogram(late, edges)[0] / np.maximum(1, np.histogram(arrivals, edges)[0])
    axes[4].fill_between(middles, missed, step="mid", color=MISSED, alpha=0.8, linewidth=0)
    axes[4].set_ylim(0, 1.0)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.margins(x=0)


def _binned(times: Floats, values: Sequence[float], edges: Floats, reduce: Any) -> Floats:
    """`reduce` of the values in each bin; NaN, a gap, where nothing was served."""
    where = np.digitize(times, edges) - 1
    array = np.asarray(values, dtype=np.float64)
    return np.array([reduce(array[where == i]) if (where == i).any() else np.nan for i in range(len(edges) - 1)])


def _p99(values: Floats) -> float:
    return float(np.quantile(values, 0.99))
