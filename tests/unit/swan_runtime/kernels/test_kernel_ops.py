"""Every op against the plain formula: an off unit is its mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import (
    ConvWeights,
    Deviation,
    GateWeights,
    MlpWeights,
    conv,
    lowrank_mask,
    lowrank_scores,
    mlp,
    mlp_shared,
    threshold_mask,
)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(0, 9), seed=st.integers(0, 99), density=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
def test_mlp_equals_the_formula_with_means_in_place_of_off_units(rows: int, seed: int, density: float) -> None:
    g = torch.Generator().manual_seed(seed)
    up, down, mean = (torch.randn(*s, generator=g) for s in ((37, 19), (11, 37), (37,)))
    bias = torch.randn(11, generator=g)
    w = MlpWeights.pack(up, None, down, bias, mean, activation="gelu")
    x = torch.randn(rows, 19, generator=g)
    mask = torch.rand(rows, 37, generator=g) < density
    expected = F.linear(torch.where(mask, F.gelu(F.linear(x, up)), mean), down, bias)
    torch.testing.assert_close(mlp(x, mask, w).y, expected, rtol=1e-4, atol=1e-4)


def test_ragged_requests_equal_one_call_each() -> None:
    torch.manual_seed(0)
    w = MlpWeights.pack(
        torch.randn(24, 8), torch.randn(24), torch.randn(5, 24), None, torch.randn(24), activation="relu"
    )
    x, mask = torch.randn(7, 8), torch.rand(3, 24) < 0.4
    y = mlp_shared(x, mask, w, offsets=torch.tensor([0, 2, 2, 7])).y
    own = mlp(x, mask[torch.tensor([0, 0, 2, 2, 2, 2, 2])], w).y
    torch.testing.assert_close(y, own, rtol=1e-4, atol=1e-4)


def test_the_conv_fold_is_exact_at_borders() -> None:
    torch.manual_seed(0)
    up, down, mean = torch.randn(6, 3, 3, 3), torch.randn(4, 6, 3, 3), torch.randn(6)
    w = ConvWeights.pack((up, None), (down, None), mean, activation="relu", stride=2)
    x, mask = torch.randn(2, 3, 9, 8), torch.zeros(2, 6, dtype=torch.bool)
    y = conv(x, mask, w).y
    torch.testing.assert_close(y, w.fold(*w.middle_size(9, 8)).expand_as(y), rtol=1e-4, atol=1e-4)


def test_cap_keeps_the_top_scores_and_counts_the_rows_it_cut() -> None:
    scores = torch.tensor([[5.0, 1.0, 4.0, 3.0], [0.0, 0.0, 9.0, 0.0]])
    mask, counts, hits = threshold_mask(scores, torch.tensor([0.5, 1.0]), k_max=2)
    assert mask.tolist() == [[True, False, True, False], [False, False, True, False]]
    assert counts.tolist() == [2, 1]
    assert hits == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_scores_are_refused(bad: float) -> None:
    gate = GateWeights.pack(torch.ones(2, 1), torch.ones(3, 1))
    with pytest.raises(InvalidInputError, match="scores"):
        lowrank_mask(torch.tensor([[1.0, bad]]), gate, torch.zeros(1))


def test_a_wrong_mask_names_field_expected_and_got() -> None:
    w = MlpWeights.pack(torch.randn(4, 3), None, torch.randn(2, 4), None, activation="relu")
    with pytest.raises(InvalidInputError) as caught:
        mlp(torch.randn(1, 3), torch.ones(1, 5, dtype=torch.bool), w)
    assert (caught.value.field, caught.value.expected) == ("mask", "bool [1, 4] on cpu")
    assert "[1, 5]" in caught.value.got


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("units", [5, 128, 200])
def test_deviation_scores_equal_the_formula(activation: str, units: int) -> None:
    torch.manual_seed(0)
    p, q, bias = torch.randn(12, 3), torch.randn(units, 3), torch.randn(units)
    center, norm, x = torch.rand(units), torch.rand(units), torch.randn(11, 12)
    gate = GateWeights.pack(p, q, bias, Deviation.pack(activation, center, norm))
    expected = (getattr(F, activation)(x @ p @ q.t() + bias) - center).abs() * norm
    torch.testing.assert_close(lowrank_scores(x, gate), expected, rtol=1e-4, atol=1e-5)
    ordered = expected.sort(1).values
    threshold = (
        ordered[:, units // 2] + ordered[:, units // 2 + 1]
    ) / 2  # between two scores: rounding decides nothing
    assert torch.equal(lowrank_mask(x, gate, threshold).mask, expected > threshold[:, None])
