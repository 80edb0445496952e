"""Speed-up over density, one panel a regime, with the ideal line."""

from __future__ import annotations

from pathlib import Path

from benchmarks.kernel_timing import Record

TITLES = {
    "own": "own masks",
    "shared": "one shared mask",
    "half": "own masks, bfloat16 weights",
    "cats": "GLU, CATS",
    "inputs": "input magnitudes",
    "conv": "3x3 convolution",
}


def plot(records: list[Record], directory: Path) -> Path:
    """Write kernels.png and return its path."""
    # Imported here: the benchmark without --plot needs no matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    regimes = sorted({(r.mask, r.rows) for r in records}, key=lambda key: (tuple(TITLES).index(key[0]), key[1]))
    columns = min(4, len(regimes))
    lines = -(-len(regimes) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (mask, rows) in enumerate(regimes):
        axes = figure.add_subplot(lines, columns, i + 1)
        chosen = [r for r in records if (r.mask, r.rows) == (mask, rows)]
        _panel(axes, chosen, _title(mask, rows))
    figure.suptitle("Speed-up over dense torch, gate and mask included (one thread)")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "kernels.png"
    figure.savefig(path, dpi=110)
    return path


def _title(mask: str, rows: int) -> str:
    if mask == "conv":
        return "3x3 convolution, 1 sample"
    return f"{rows} row{'s' if rows > 1 else ''}, {TITLES[mask]}"


def _panel(axes: object, records: list[Record], title: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    for shape in dict.fromkeys(r.shape for r in records):
        points = sorted((r.active_share, r.speedup) for r in records if r.shape == shape)
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=shape)
    first = records[0].shape
    ideal = sorted((r.active_share, r.ideal) for r in records if r.shape == first)
    axes.plot([x for x, _ in ideal], [y for _, y in ideal], "k--", linewidth=1, label="ideal")
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set(xlabel="density", ylabel="speed-up", yscale="log", title=title)
    ticks = [1, 2, 4, 8, 16]
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
