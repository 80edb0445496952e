"""The model card: a package's README.md and its plot, written from what was measured on the package's weights."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.models_measure import Result
from benchmarks.models_plot import plot
from benchmarks.models_targets import difficulty, verdicts
from models.package import CARD, Manifest, Package

PICTURE = "curve.png"


def write_card(package: Package, results: Sequence[Result]) -> Path:
    """README.md and curve.png into the package's folder; the first result is the dense network."""
    plot(results, package.path / PICTURE, width=8.0, dpi=70)
    path = package.path / CARD
    path.write_text("\n".join(_lines(package.manifest, package.version, results)) + "\n", encoding="utf-8")
    return path


def _lines(manifest: Manifest, version: str, results: Sequence[Result]) -> Iterator[str]:
    dense = results[0]
    metrics = list(dense.quality)
    yield f"# {manifest.name}"
    yield ""
    yield f"{manifest.description}. Version {version}, licence {manifest.licence}."
    yield ""
    yield from (f"- {name}: {value}" for name, value in _facts(manifest))
    yield ""
    yield f"Measured on {dense.n} test samples with these weights by `swan bench models --cards`, {_where()}."
    yield "MACs include the gates; ms a request on one thread, as the median ratio to the dense network."
    yield ""
    yield f"| network | budget | {' | '.join(metrics)} | activity | MACs | of dense | ms, batch 1 | ms, batch 16 |"
    yield "|---|" + "---:|" * (len(metrics) + 6)
    for r in sorted(results, key=lambda r: (r.variant != "gated", r.variant, r.macs)):
        quality = " | ".join(f"{r.quality[name]:.4f}" for name in metrics)
        yield (
            f"| {r.contender.label} | {r.budget:g} | {quality} | {r.activities.mean():.1%} | {r.macs / 1e6:.2f}M "
            f"| {r.macs / dense.macs:.1%} | {r.ms[1]:.3f} | {r.ms[16]:.3f} |"
        )
    yield ""
    yield f"![{metrics[0]} over MACs and over time]({PICTURE})"
    yield ""
    yield from (f"- {line}" for line in difficulty(results))
    yield from (f"- {verdict}" for verdict in verdicts(results))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.preprocessing:
        yield "input", manifest.preprocessing
    if manifest.credits:
        yield "data", manifest.credits
    if manifest.base_weights:
        yield "base weights", f"{manifest.base_weights.requirement}, {manifest.base_weights.licence}"
    for key, value in manifest.training.items():
        yield key, str(value)


def _where() -> str:
    cores = os.cpu_count()
    return f"{platform.machine()} with {cores} cores, {datetime.now(UTC):%Y-%m-%d}"
