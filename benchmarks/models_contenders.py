"""Who takes part in `swan bench models`: the package at its budgets, its dense teacher, the rivals found on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from benchmarks.models_exam import Exam, Inputs, TextExam, padded
from benchmarks.models_measure import Contender, gated, plain
from models.calibration import batches_of
from models.dense import without_gates
from models.export import compact_network, sample_data
from models.gated import GatedServable
from models.recipes.packaging import read_rival
from models.registry import find_packages, load_package
from models.text import TextCodec, original_encoder
from swan_runtime.bind import GatedModel
from swan_runtime.budget import CalibrationTable

COMPACT_BUDGETS = (0.1, 0.3, 0.5)
TRAINING_FREE_BUDGETS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
PACKAGES = "packages"
"""Folder of a model's rivals that are gated: packages named VARIANT or VARIANT-..."""


@dataclass(frozen=True)
class Entry:
    """A package under test and where its rivals lie. say: tells the reader what is missing and how to get it."""

    name: str
    model: GatedServable
    table: CalibrationTable
    rivals: Path
    quick: bool
    say: Callable[[str], None]

    @property
    def recipe(self) -> str:
        return f"python -m models.recipes.rivals {self.name} --out {self.rivals.parent}"


def contenders(entry: Entry, exam: Exam) -> Iterator[Contender]:
    """The dense network comes first: everything is compared with it."""
    name = entry.name
    yield plain(name, "dense", "dense", _dense(entry))
    budgets = entry.table.budgets
    for budget in _some(budgets) if entry.quick else budgets:
        yield gated(name, "gated", "gated", budget, entry.model.runtime)
    yield from _static(entry)
    yield from _gated_rivals(entry, exam)
    for budget in _nearest(budgets, COMPACT_BUDGETS[:: 2 if entry.quick else 1]):
        exported = compact_network(entry.model, budget, batches_of(entry.model, sample_data(entry.model)[0]))
        yield plain(name, "compact", "compact", exported.module, budget)


def _dense(entry: Entry) -> nn.Module:
    if isinstance(entry.model.codec, TextCodec):
        return without_gates(original_encoder())
    path = entry.rivals / "dense.safetensors"
    if path.exists():
        return read_rival(path)
    entry.say(f"{entry.name}: no dense teacher in {entry.rivals}; the package's own weights stand in ({entry.recipe})")
    return without_gates(entry.model.runtime.model)


def _static(entry: Entry) -> Iterator[Contender]:
    paths = sorted(entry.rivals.glob("static-*.safetensors"))
    if not paths:
        entry.say(f"{entry.name}: no static networks in {entry.rivals}; train them: {entry.recipe}")
    for path in paths:
        yield plain(entry.name, "static", path.stem, read_rival(path))


def _gated_rivals(entry: Entry, exam: Exam) -> Iterator[Contender]:
    folder = entry.rivals / PACKAGES
    found = {path.parent.name: path for path in find_packages(folder)} if folder.is_dir() else {}
    for variant in ("single-budget", "training-free"):
        names = sorted(name for name in found if name.startswith(variant))
        if not names:
            entry.say(f"{entry.name}: no {variant} network in {folder}; make it: {entry.recipe}")
        for label in names:
            model = load_package(found[label])
            assert isinstance(model, GatedServable)
            model.runtime.threads = entry.model.runtime.threads
            budgets = model.runtime.table.budgets
            chosen = budgets[:1] if variant == "single-budget" else _nearest(budgets, TRAINING_FREE_BUDGETS)
            for budget in _some(chosen) if entry.quick else chosen:
                contender = gated(entry.name, variant, label, budget, model.runtime)
                by_padding = isinstance(model.runtime.model, GatedModel) and isinstance(exam, TextExam)
                yield _with_padding(contender) if by_padding else contender


def _with_padding(contender: Contender) -> Contender:
    def answer(inputs: Inputs) -> object:
        return contender.answer(padded(*inputs))

    return replace(contender, answer=answer)  # type: ignore[arg-type]


def _some(budgets: tuple[float, ...]) -> tuple[float, ...]:
    """The smallest, a middle and the largest."""
    return tuple(sorted({budgets[0], budgets[len(budgets) // 2], budgets[-1]}))


def _nearest(budgets: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(sorted({min(budgets, key=lambda b: abs(b - want)) for want in wanted}))
