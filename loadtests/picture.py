"""A played scenario over time, as one picture: load, latency, budget, accuracy, failures, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from loadtests.outcomes import LABELS
from loadtests.play import ADAPTIVE, FIXED, Block, Mark, Played
from loadtests.records import summarise
from loadtests.tables import policies_of

FAILURE_COLOURS = {"late": "#f2c14e", "refused": "#9aa5b1", "expired": "#b58bc4", "error": "#b3261e", "lost": "#222222"}
MARK_COLOUR = "#6a3d00"
COLOURS = {ADAPTIVE: "#0b6e99", FIXED: "#c0504d"}


def plot(played: Played, path: Path) -> None:
    """The first block of each policy; memory only where it was measured."""
    firsts = [played.of(policy)[0] for policy in policies_of(played)]
    rows = 6 if any(item.run.memory is not None for item in firsts) else 5
    figure, axes = plt.subplots(rows, 1, figsize=(10, 2.6 * rows), sharex=True, constrained_layout=True)
    for item in firsts:
        _plot_block(item, axes, played)
    axes[0].set_ylabel("requests/s")
    axes[0].axhline(
        played.yardstick.capacity.rate, color="#888", ls=":", lw=1, label=f"capacity at {played.scenario.unit} budget"
    )
    axes[1].set_ylabel("latency, ms (p50, p99)")
    axes[1].axhline(played.yardstick.deadline_s * 1e3, color="#888", ls="--", lw=1, label="deadline")
    axes[1].set_yscale("log")
    axes[2].set_ylabel("budget, activity")
    axes[2].set_ylim(0, 1.05)
    axes[3].set_ylabel("effective accuracy")
    axes[3].axhline(played.yardstick.full_accuracy, color="#888", ls="--", lw=1, label="full quality, no load")
    axes[3].set_ylim(0, 1.02)
    axes[4].set_ylabel(f"not on time, requests/s\n({firsts[0].policy})")
    axes[4].set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    if rows == 6:
        _plot_memory(firsts, axes[5])
    for mark in played.disturbance.marks if played.disturbance is not None else ():
        _plot_mark(mark, axes)
    for axis in axes:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
        axis.grid(alpha=0.25)
    figure.suptitle(f"{played.scenario.name}: {played.scenario.says} ({played.model}, {played.protocol})")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_block(item: Block, axes: Any, played: Played) -> None:
    width = max(0.25, played.scenario.load.length_s / 60)
    edges = np.arange(0.0, played.scenario.load.length_s, width)
    windows = [summarise(item.run, float(edge), float(edge + width)) for edge in edges]
    middle, colour = edges + width / 2, COLOURS[item.policy]

    def line(axis: Axes, field: str, label: str, style: str = "-", scale: float = 1.0, alpha: float = 1.0) -> None:
        values = [scale * getattr(window, field) for window in windows]
        axis.plot(middle, values, style, color=colour, lw=1.6, alpha=alpha, label=label)

    if item.policy == ADAPTIVE:
        axes[0].fill_between(middle, [w.offered_rps for w in windows], color="#ddd", label="offered", step="mid")
    line(axes[0], "goodput_rps", f"on time, {item.policy}")
    line(axes[1], "p99_ms", f"p99, {item.policy}")
    line(axes[1], "p50_ms", f"p50, {item.policy}", ":", alpha=0.8)
    line(axes[2], "budget_mean", f"budget, {item.policy}")
    line(axes[2], "activity_mean", f"activity, {item.policy}", ":", alpha=0.8)
    line(axes[3], "effective_accuracy", item.policy)
    if item.policy == ADAPTIVE:
        shares = [[getattr(w, f"{name}_ratio") * w.offered_rps for w in windows] for name in FAILURE_COLOURS]
        labels = [LABELS[name] for name in FAILURE_COLOURS]
        axes[4].stackplot(middle, np.nan_to_num(shares), labels=labels, colors=[*FAILURE_COLOURS.values()], step="mid")


def _plot_memory(blocks: list[Block], axis: Axes) -> None:
    for item in blocks:
        if item.run.memory is not None:
            axis.plot(item.run.memory.at, item.run.memory.mib, color=COLOURS[item.policy], label=item.policy)
    axis.set_ylabel("memory, MiB")
    axis.set_ylim(0.0, 1.2 * axis.dataLim.y1)


def _plot_mark(mark: Mark, axes: Any) -> None:
    for axis in axes:
        axis.axvline(mark.at_s, color=MARK_COLOUR, ls="--", lw=1)
    place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
    axes[0].annotate(
        f"{mark.says}, {mark.at_s:.1f} s", (mark.at_s, 1.0), fontsize=8, color=MARK_COLOUR, ha="center", **place
    )
