"""The picture of `swan bench serving`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.serving import Record


def plot(records: Sequence[Record], folder: Path) -> Path:
    """Bars: requests a second within the deadline, with the quality of the answers beside each."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    ordered = sorted(records, key=lambda record: record.rps)
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(ordered) + 1.5), constrained_layout=True)
    colours = ["#0b6e99" if record.server.startswith("swan") else "#9aa5b1" for record in ordered]
    labels = [f"{record.server} ({record.protocol})" for record in ordered]
    bars = axis.barh(labels, [record.rps for record in ordered], color=colours)
    notes = [f" {record.rps:.0f}/s, quality {record.quality_at_capacity:.3f}" for record in ordered]
    axis.bar_label(bars, notes, fontsize=8)
    axis.set_xlabel(f"requests/s with 99 % within {records[0].deadline_ms:.0f} ms ({records[0].model}, two cores)")
    axis.margins(x=0.3)
    path = folder / "serving.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
