"""Checks two papers' claims on fashion-resnet: ACON against ReLU, and gates with and without batch shaping.

Short trainings, several seeds each; every network is trained alike. Writes each run to a JSON file as soon as it is
done (a broken-off command goes on there) and the table of means as Markdown.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import nn

from models.data import fashion
from models.gated_resnet import GatedResNet, GatedResNetConfig, folded
from models.recipes.fashion_data import Splits, accuracy, batches_of
from models.recipes.fashion_resnet import DENSE, GATED, MAX_SHIFT
from models.recipes.fashion_training import train_dense, train_gated
from models.recipes.lessons import fresh_lessons
from models.recipes.packaging import processor_name
from swan_runtime.calibrate import CalibrationConfig, fit_thresholds, measure
from swan_runtime.fit import fit_gates_

SHAPING = 0.75
"""Initial weight of the batch-shaping loss, as in the paper's code."""
VARIANTS: Mapping[str, tuple[str, float]] = {
    "ReLU": ("relu", 0.0),
    "ACON-C": ("acon_c", 0.0),
    "meta-ACON": ("meta_acon", 0.0),
    "meta-ACON, batch shaping": ("meta_acon", SHAPING),
}
BUDGETS = (1.0, 0.4, 0.2)


@dataclass(frozen=True, slots=True)
class Short:
    """How long each network is trained: images of the training split, epochs dense, then epochs gated."""

    images: int
    dense_epochs: int
    epochs: int


@dataclass(frozen=True, slots=True)
class Run:
    """One network: test accuracy dense (the teacher) and at each budget; spread: how input-dependent its gates are.

    spread: standard deviation of a test image's activity at the smallest budget, over images.
    """

    variant: str
    seed: int
    dense: float
    accuracy: Mapping[str, float]
    spread: float


def main(
    images: Annotated[int, typer.Option(help="Training images.")] = 20_000,
    dense_epochs: Annotated[int, typer.Option(help="Epochs of each dense network.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs with gates.")] = 2,
    seeds: Annotated[int, typer.Option(help="Networks a variant.")] = 2,
    out: Annotated[Path, typer.Option(help="JSON with every run; the table lies beside it as .md.")] = Path(
        "out/activations.json"
    ),
    data: Annotated[Path | None, typer.Option(help="Folder with the training files, instead of apt.")] = None,
    test_images: Annotated[int, typer.Option(help="Test images to measure on.")] = 10_000,
) -> None:
    """Train and compare the four variants."""
    console = Console()
    short = Short(images, dense_epochs, epochs)
    splits = Splits.load(data, images, console)
    test = fashion.test_images().take(slice(0, test_images))
    runs = _read(out, short)
    for seed in range(seeds):
        for variant in VARIANTS:
            if any((run.variant, run.seed) == (variant, seed) for run in runs):
                continue
            runs.append(_train(variant, seed, short, splits, test))
            _write(out, short, runs)
            console.print(f"{variant}, seed {seed}: {_shown(runs[-1])}")
    table = "\n".join(table_of(runs, short))
    out.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    console.print(table, markup=False)


def _train(variant: str, seed: int, short: Short, splits: Splits, test: fashion.Images) -> Run:
    activation, shaping = VARIANTS[variant]
    torch.manual_seed(seed)
    config = GatedResNetConfig(activation=activation)
    teacher = _channels_last(GatedResNet(config))
    for name, parameter in teacher.named_parameters():
        parameter.requires_grad_(".gate." not in name)
    dense = replace(DENSE, seed=seed, epochs=short.dense_epochs)
    train_dense(f"{variant}, dense", teacher, splits, dense, None, fresh_lessons(splits, MAX_SHIFT))
    network = _channels_last(GatedResNet(config))
    network.load_state_dict(teacher.state_dict())
    fit_gates_(network, [(splits.scaled(1024),)])
    how = replace(GATED, train=replace(GATED.train, seed=seed, epochs=short.epochs), shaping=shaping)
    train_gated(f"{variant}, gated", network, splits, how, None, fresh_lessons(splits, MAX_SHIFT, teacher))
    return _measured(variant, seed, folded(teacher), folded(network), splits, test)


def _measured(
    variant: str, seed: int, teacher: nn.Module, network: nn.Module, splits: Splits, test: fashion.Images
) -> Run:
    """Thresholds from held-out images, accuracy on test images."""
    held_out, batches = batches_of(splits.calibration.take(slice(0, 2000))), batches_of(test)
    config = CalibrationConfig(variant, "accuracy")
    labels = test.labels.tolist()
    found: dict[str, float] = {}
    spread = 0.0
    for budget in BUDGETS:
        seen = measure(network, batches, fit_thresholds(network, held_out, budget, config))
        found[f"{budget:g}"] = accuracy(seen.outputs, labels)
        spread = float(seen.activity.std())
    with torch.inference_mode():
        dense = accuracy(torch.cat([teacher(*batch) for batch in batches]), labels)
    return Run(variant, seed, dense, found, spread)


def table_of(runs: Sequence[Run], short: Short) -> list[str]:
    """Markdown: per variant the mean over seeds and, in brackets, the distance between the best and the worst seed."""
    seeds = len({run.seed for run in runs})
    lines = [
        f"{short.images:,} images, {short.dense_epochs} epochs dense, then {short.epochs} gated; {seeds} seeds; "
        f"{processor_name()}, torch {torch.__version__}.",
        "Test accuracy in per cent: mean over seeds (best minus worst seed). Spread: standard deviation over images of",
        f"the activity at budget {BUDGETS[-1]:g}, in points: 0 would be a static mask.",
        "",
        "| network | dense | " + " | ".join(f"gated, budget {budget:g}" for budget in BUDGETS) + " | spread |",
        "|---|" + "---:|" * (len(BUDGETS) + 2),
    ]
    for variant in VARIANTS:
        mine = [run for run in runs if run.variant == variant]
        if mine:
            columns = [[run.dense for run in mine]]
            columns += [[run.accuracy[f"{budget:g}"] for run in mine] for budget in BUDGETS]
            cells = [f"{100 * statistics.mean(c):.2f} ({100 * (max(c) - min(c)):.2f})" for c in columns]
            spread = 100 * statistics.mean(run.spread for run in mine)
            lines.append(f"| {variant} | {' | '.join(cells)} | {spread:.1f} |")
    return lines


def _shown(run: Run) -> str:
    return f"dense {run.dense:.4f}, " + ", ".join(f"{budget}: {value:.4f}" for budget, value in run.accuracy.items())


def _read(path: Path, short: Short) -> list[Run]:
    """Runs of the same length that an earlier call has finished."""
    if not path.exists():
        return []
    kept = json.loads(path.read_text(encoding="utf-8"))
    return [Run(**run) for run in kept["runs"]] if kept["training"] == asdict(short) else []


def _write(path: Path, short: Short, runs: Sequence[Run]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"training": asdict(short), "runs": [asdict(run) for run in runs]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _channels_last(network: GatedResNet) -> GatedResNet:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stub


if __name__ == "__main__":
    typer.run(main)
