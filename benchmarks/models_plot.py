"""The picture of `swan bench models`: quality over MACs and over measured time, all networks of one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.models_measure import Result

STYLES = {
    "gated": ("#0b6e99", "o-"),
    "training-free": ("#7fb4cc", "o--"),
    "single-budget": ("#d1495b", "D"),
    "static": ("#30343f", "s"),
    "compact": ("#edae49", "^"),
    "dense": ("#000000", "*"),
}


def plot(results: Sequence[Result], path: Path, width: float = 10.0, dpi: int = 110) -> Path:
    """Write the PNG. The first result is the dense network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(width, 0.4 * width), sharey=True, constrained_layout=True)
    for variant, (colour, style) in STYLES.items():
        points = sorted((r for r in results if r.variant == variant), key=lambda r: r.macs)
        if not points:
            continue
        quality = [next(iter(r.quality.values())) for r in points]
        axes[0].plot([r.macs / 1e6 for r in points], quality, style, color=colour, label=variant)
        axes[1].plot([r.ms[1] for r in points], quality, style, color=colour)
    metric = next(iter(results[0].quality))
    axes[0].set(xlabel="million MACs a request, gates included", ylabel=f"{metric} on {results[0].n} test samples")
    axes[1].set(xlabel="ms a request, batch 1, one thread")
    axes[0].legend(fontsize=8)
    figure.suptitle(results[0].contender.model)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=dpi)
    plt.close(figure)
    return path
