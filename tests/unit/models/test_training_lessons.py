"""What a gated network is trained on: budgets dealt out over a batch, lessons drawn fresh or from a bank."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.data.fashion import Images
from models.gated_resnet import GatedResNet, GatedResNetConfig
from models.recipes.fashion_data import Splits
from models.recipes.fashion_training import GatedTraining, learn_means_, train_gated
from models.recipes.lessons import banked_lessons, fresh_lessons, logits_of
from models.recipes.training import TrainConfig
from models.swan_mlp import DenseMLP, SwanMLP, SwanMLPConfig
from swan_runtime.fit import fit_gates_
from swan_runtime.layers import gated_layers
from swan_runtime.plan import SoftPlan

SMALL = SwanMLPConfig(hidden=32, rank=4)


@pytest.fixture(scope="module")
def splits() -> Splits:
    source = np.random.default_rng(0)
    pixels = source.integers(0, 256, (96, 784), dtype=np.uint8)
    labels = source.integers(0, 10, 96)
    held_out = Images(pixels[:32], labels[:32])
    return Splits(torch.from_numpy(pixels), torch.from_numpy(labels), held_out)


@given(
    rows=st.integers(8, 300),
    done=st.floats(0, 1),
    low=st.floats(0.02, 0.5),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_a_batch_holds_full_lowest_and_budgets_between(
    rows: int, done: float, low: float, share: float, seed: int
) -> None:
    how = GatedTraining(TrainConfig(1, rows, 1e-3), low=low, full_share=share)
    budgets = how.budgets(rows, done, random.Random(seed))
    assert budgets.shape == (rows,)
    assert int((budgets == 1.0).sum()) >= int(rows * share)
    assert float(budgets.min()) >= low - 1e-6 and float(budgets.max()) <= 1.0
    assert how.low_until > done or float(budgets.min()) == pytest.approx(low, rel=1e-5)


def test_one_budget_only_trains_a_single_budget_network() -> None:
    how = GatedTraining(TrainConfig(1, 64, 1e-3), low=0.3, high=0.3, full_share=0.0, low_from=0.0)
    assert torch.allclose(how.budgets(64, 0.5, random.Random(0)), torch.tensor(0.3))


def test_every_group_of_a_mixed_batch_keeps_its_own_budget() -> None:
    torch.manual_seed(0)
    network = GatedResNet(GatedResNetConfig(widths=(8, 16, 16)))
    budgets = torch.tensor((1.0, 0.25, 0.5, 0.1)).repeat_interleave(16)
    plan = SoftPlan(budgets, straight_through=True)
    network(torch.rand(64, 784), plan)
    for trace in plan.traces.values():
        for budget in (1.0, 0.25, 0.5, 0.1):
            active = float(trace.gates.detach()[budgets == budget].mean())
            assert active == pytest.approx(budget, abs=0.02), "the budget holds within each group, not only on average"


def test_fitted_channel_gates_score_alike_in_training_and_inference() -> None:
    torch.manual_seed(0)
    network = GatedResNet(GatedResNetConfig(widths=(8, 16, 16)))
    images = torch.rand(128, 784)
    fit_gates_(network, [(images,)])
    x = {}
    for name, layer in gated_layers(network).items():
        layer.register_forward_pre_hook(lambda _, args, name=name: x.__setitem__(name, args[0]))
    network.eval()(images)
    for name, layer in gated_layers(network).items():
        inference = layer.gate.scores(x[name]).detach()
        layer.gate.train()
        training = layer.gate.scores(x[name]).detach()
        assert torch.allclose(training, inference, atol=1e-3 * float(inference.abs().max()))


def test_fresh_lessons_differ_and_carry_the_teachers_logits(splits: Splits) -> None:
    teacher = DenseMLP(SMALL).eval()
    draw = fresh_lessons(splits, 2, teacher)
    rows = torch.arange(16)
    pixels, labels, taught = draw(rows)
    assert torch.equal(labels, splits.labels[:16])
    assert taught is not None and torch.equal(taught, logits_of(teacher, pixels))
    assert not torch.equal(pixels, draw(rows)[0])
    assert fresh_lessons(splits, 2)(rows)[2] is None


def test_banked_lessons_hold_what_the_teacher_said_of_each_variant(splits: Splits) -> None:
    teacher = DenseMLP(SMALL).eval()
    before = torch.get_rng_state()
    draw = banked_lessons(splits, 1, teacher, variants=3)
    assert torch.equal(before, torch.get_rng_state()), "building a bank must not move the training's random numbers"
    rows = torch.arange(96)
    pixels, labels, taught = draw(rows)
    assert taught is not None and torch.equal(labels, splits.labels)
    assert torch.allclose(taught, logits_of(teacher, pixels), atol=0.05)  # the bank rounds pixels to 1/255, bf16
    seen = {draw(rows[:1])[0].numpy().tobytes() for _ in range(60)}
    assert len(seen) == 3 and (splits.pixels[:1].float() / 255.0).numpy().tobytes() in seen


def test_what_the_teacher_said_is_kept_for_the_next_run_and_not_taken_for_another_teachers(
    splits: Splits, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    first, other = DenseMLP(SMALL).eval(), DenseMLP(SMALL).eval()
    kept, rows = tmp_path / "work" / "lessons.safetensors", torch.arange(96)

    def drawn(teacher: torch.nn.Module, path: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5)
        pixels, _, taught = banked_lessons(splits, 1, teacher, 3, kept=path)(rows)
        assert taught is not None
        return pixels, taught

    wanted = drawn(first, kept)
    written = kept.stat().st_mtime_ns
    again = drawn(first, kept)
    assert kept.stat().st_mtime_ns == written
    assert torch.equal(again[0], wanted[0]) and torch.equal(again[1], wanted[1])
    assert torch.equal(drawn(other, kept)[1], drawn(other, None)[1])


def test_means_are_learned_and_load_into_an_ordinary_network(splits: Splits) -> None:
    torch.manual_seed(0)
    network = SwanMLP(SMALL)
    fit_gates_(network, [(splits.scaled(96),)])
    before = network.block.mean.clone()
    how = GatedTraining(TrainConfig(1, 48, 1e-2), low=0.2, shaping=0.5)
    train_gated("tiny", network, splits, how, None, fresh_lessons(splits, 1, DenseMLP(SMALL).eval()))
    assert not torch.allclose(network.block.mean, before)
    other = SwanMLP(SMALL)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.block.mean, network.block.mean)
    learn_means_(other)
    assert isinstance(other.block.mean, torch.nn.Parameter)
