"""Both stages of the encoder's recipe on a small encoder with a real tokenizer: gates, blocks, the whole, resuming."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from models.data.descriptions import sample_descriptions
from models.gated_encoder import GatedEncoder, GatedEncoderConfig
from models.recipes.encoder_blocks import EVERY, LOWEST, Budgets, fit_request_gate_, group_budgets, train_block_
from models.recipes.encoder_distillation import Distillation, distil_
from models.recipes.encoder_lessons import MAX_TOKENS, TOKENS, Lessons, encoder_layers, learn_from
from models.recipes.static_encoder import pruned, unit_energies
from models.recipes.training import TrainConfig
from models.text import TextCodec
from swan_runtime.calibrate import CalibrationConfig, fit_thresholds, measure, set_means_
from swan_runtime.layers import gated_layers

PAIRS = [(row.short, row.long) for row in sample_descriptions("train")[:96]]
CONFIG = GatedEncoderConfig(
    vocabulary=400, max_positions=80, width=24, num_layers=2, num_heads=3, num_units=48, rank=6,
    granularity="request", pool="input",
)  # fmt: skip
STEPS = TrainConfig(epochs=3, batch_rows=16, max_lr=2e-3, weight_decay=0.0, warm_up=0.1)


@pytest.fixture(scope="module")
def codec() -> TextCodec:
    words = sorted({word.lower() for pair in PAIRS for text in pair for word in text.split()})[:398]
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: i + 1 for i, word in enumerate(words)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return TextCodec(tokenizer)


@pytest.fixture(scope="module")
def original() -> GatedEncoder:
    torch.manual_seed(0)
    return GatedEncoder(CONFIG).eval()


@pytest.fixture(scope="module")
def lessons(original: GatedEncoder, codec: TextCodec) -> Lessons:
    return learn_from(original, codec, PAIRS, seed=0)


def student(original: GatedEncoder, lessons: Lessons) -> GatedEncoder:
    network = deepcopy(original)
    for layer, seen in zip(encoder_layers(network), lessons.blocks, strict=True):
        fit_request_gate_(layer, seen)
    return network


def test_lessons_hold_what_the_original_says_in_the_order_of_the_texts(
    original: GatedEncoder, codec: TextCodec, lessons: Lessons
) -> None:
    assert lessons.num_pairs == len(PAIRS)
    assert max(len(ids) for ids in lessons.ids) <= MAX_TOKENS
    for i in (0, 5, len(PAIRS) + 7):
        with torch.no_grad():
            alone = original([len(lessons.ids[i])], lessons.ids[i])[0]
        assert float(alone @ lessons.embeddings[i]) > 0.999  # bfloat16 against float32
    assert lessons.blocks[0].tokens.shape == (2 * len(PAIRS), TOKENS, CONFIG.width)
    again = learn_from(original, codec, PAIRS, seed=0)
    assert torch.equal(again.blocks[1].tokens, lessons.blocks[1].tokens)


def test_fitted_gates_choose_better_than_the_static_best_or_as_well(original: GatedEncoder, lessons: Lessons) -> None:
    layer = encoder_layers(student(original, lessons))[0]
    seen = lessons.blocks[0]
    with torch.no_grad():
        hidden = layer.ffn.unit_values(seen.tokens.float())
        energy = ((hidden - layer.ffn.mean) * layer.ffn.down.weight.norm(dim=0)).square().mean(1)
        scores = layer.ffn.gate.scores(seen.means)
    keep = CONFIG.num_units // 3

    def caught(order: Tensor) -> float:
        return float(energy.gather(1, order[:, :keep].expand(len(energy), keep)).sum() / energy.sum())

    by_gate, static = caught(scores.argsort(1, descending=True)), caught(energy.mean(0, True).argsort(1, True))
    assert by_gate > static > keep / CONFIG.num_units


def error_at(network: GatedEncoder, original: GatedEncoder, lessons: Lessons, budget: float) -> float:
    """Mean 1 - cosine to the original over the texts."""
    batches = [([len(ids)], ids) for ids in lessons.ids[:40]]
    config = CalibrationConfig("encoder", "cosine", fit_rounds=1)
    got = measure(network, batches, fit_thresholds(network, batches, budget, config)).outputs
    with torch.no_grad():
        wanted = torch.cat([original(*batch) for batch in batches])
    return float((1 - (got * wanted).sum(1)).mean())


def test_blocks_learn_to_do_with_fewer_units(original: GatedEncoder, lessons: Lessons) -> None:
    network = student(original, lessons)
    before = error_at(network, original, lessons, 0.3)
    for i, layer in enumerate(encoder_layers(network)):
        gate = {name: value.clone() for name, value in layer.ffn.gate.state_dict().items()}
        train_block_(f"block {i}", layer, encoder_layers(original)[i].ffn, lessons.blocks[i], STEPS, None, EVERY)
        assert all(torch.equal(value, gate[name]) for name, value in layer.ffn.gate.state_dict().items())
    assert error_at(network, original, lessons, 0.3) < 0.8 * before
    assert all(parameter.requires_grad for layer in encoder_layers(network) for parameter in layer.ffn.parameters())


def test_a_static_network_learns_to_do_with_its_units(original: GatedEncoder, lessons: Lessons) -> None:
    network = GatedEncoder(replace(CONFIG, granularity="token", pool="scores")).eval()  # as the original is loaded
    network.load_state_dict(original.state_dict())
    texts = [([len(ids)], ids) for ids in lessons.ids[:40]]
    set_means_(network, texts)
    small = pruned(network, unit_energies(network, texts), 16)

    def error() -> float:
        with torch.no_grad():
            pairs = [(small(*text) * original(*text)).sum() for text in texts]
        return float((1 - torch.stack(pairs)).mean())

    before = error()
    for layer, dense, seen in zip(encoder_layers(small), encoder_layers(original), lessons.blocks, strict=True):
        train_block_("static", layer, dense.ffn, seen, STEPS, None, Budgets(1.0))
    after_blocks = error()
    assert after_blocks < before
    distil_(small, lessons, Distillation(replace(STEPS, max_lr=5e-4), Budgets(1.0), agree=0.0, match=0.0), None)
    assert error() < after_blocks


def test_the_whole_learns_and_leaves_attention_and_words_alone(original: GatedEncoder, lessons: Lessons) -> None:
    network = student(original, lessons)
    before = error_at(network, original, lessons, 0.3)
    distil_(network, lessons, Distillation(replace(STEPS, max_lr=5e-4, gate_lr=0.1), match=0.0), None)
    assert error_at(network, original, lessons, 0.3) < before
    theirs = original.state_dict()
    same = {name for name, value in network.state_dict().items() if torch.equal(value, theirs[name])}
    assert {"tokens.weight", "layers.0.attention.qkv.weight"} <= same
    assert not any(name.endswith(("ffn.up.weight", "gate.expand")) for name in same)


def test_a_broken_off_run_ends_as_an_unbroken_one(original: GatedEncoder, lessons: Lessons, tmp_path: Path) -> None:
    short = replace(STEPS, epochs=2, batch_rows=48)
    whole, broken = student(original, lessons), student(original, lessons)
    distil_(whole, lessons, Distillation(short), None)

    class Interrupted(Exception):
        pass

    def stop() -> dict[str, float]:
        raise Interrupted

    with pytest.raises(Interrupted):
        distil_(broken, lessons, Distillation(short), tmp_path / "c.safetensors", stop)
    fresh = student(original, lessons)
    distil_(fresh, lessons, Distillation(short), tmp_path / "c.safetensors")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, msg=name)
    assert set(gated_layers(fresh)) == set(gated_layers(whole))


@pytest.mark.parametrize("rows", [8, 13, 128])
def test_every_batch_holds_the_full_and_the_lowest_budget(rows: int) -> None:
    budgets = group_budgets(rows, EVERY)
    assert budgets.shape == (rows,)
    assert float(budgets.max()) == 1.0 and float(budgets.min()) == pytest.approx(LOWEST)
    assert bool((group_budgets(rows, Budgets(1.0), groups=4) == 1.0).all())  # a static network's
    assert set(group_budgets(rows, Budgets(0.25, 0.25), groups=4).tolist()) == {0.25, 1.0}  # for one budget
