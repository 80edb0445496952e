"""One call for mask and product of magnitude-gated layers: the same as mask, then oracle, whatever kernel serves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import (
    CatsWeights,
    InputWeights,
    cats,
    cats_branch,
    cats_gated,
    magnitude_mask,
    sparse_gated,
    sparse_inputs,
)
from swan_runtime.kernels.native import library

needs_library = pytest.mark.skipif(library() is None, reason="without the native library there is one way only")
SERVED = {True: "native", False: "dense"}


def linear(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    return torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)


def thresholds_of(rows: int, low: float) -> Tensor:
    """-inf, which stands for budget 1, where `low` is negative."""
    return torch.full((rows,), -torch.inf) if low < 0 else torch.linspace(low, low + 0.5, rows)


@needs_library
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 70), units=st.integers(1, 90), low=st.floats(-1, 2), k_max=st.none() | st.integers(0, 50),
    skipping=st.booleans(), threads=st.integers(1, 2),
)  # fmt: skip
def test_cats_in_one_call_equals_branch_mask_and_oracle(
    rows: int, units: int, low: float, k_max: int | None, skipping: bool, threads: int
) -> None:
    torch.manual_seed(rows)
    parts = linear(units, 20), linear(units, 20), linear(15, units)
    w = CatsWeights.pack(*parts, torch.randn(units), torch.rand(units) + 0.5, activation="silu")
    w.block.cache[("most_active", rows)] = rows * units if skipping else -1
    x, thresholds = torch.randn(rows, 20), thresholds_of(rows, low)
    got = cats_gated(x, w, thresholds, k_max=k_max, threads=threads)
    branch = cats_branch(x, w)
    found = magnitude_mask(branch, w.weight, thresholds, k_max, "silu")
    torch.testing.assert_close(got.y, cats(x, branch, found.mask, w, kernel="reference")[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(got.mask, found.mask)
    assert torch.equal(got.counts, found.counts)
    assert got.cap_hits == found.cap_hits
    if threads == 1:
        assert got.kernel == SERVED[skipping]


@needs_library
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 70), units=st.integers(1, 90), low=st.floats(-1, 2), k_max=st.none() | st.integers(0, 50),
    skipping=st.booleans(), rank=st.integers(0, 2),
)  # fmt: skip
def test_sparse_inputs_in_one_call_equal_mask_and_oracle(
    rows: int, units: int, low: float, k_max: int | None, skipping: bool, rank: int
) -> None:
    torch.manual_seed(rows)
    path = (torch.randn(13, rank), torch.randn(rank, units)) if rank else None
    w = InputWeights.pack(linear(13, units), torch.randn(units), torch.rand(units) + 0.5, path)
    w.cache[("most_active", rows)] = rows * units if skipping else -1
    x, thresholds = torch.randn(rows, units), thresholds_of(rows, low)
    before = x.clone()
    got = sparse_gated(x, w, thresholds, k_max=k_max)
    found = magnitude_mask(x.clone(), w.weight, thresholds, k_max)
    torch.testing.assert_close(got.y, sparse_inputs(x, found.mask, w, kernel="reference")[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(x, before)
    assert torch.equal(got.mask, found.mask)
    assert (got.cap_hits, got.kernel) == (found.cap_hits, SERVED[skipping])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.randn(3, 12)
    x[1, 2] = bad
    thresholds = torch.zeros(3)
    with pytest.raises(InvalidInputError, match="scores"):
        sparse_gated(x, InputWeights.pack(linear(4, 12)), thresholds)
    with pytest.raises(InvalidInputError, match="scores"):
        cats_gated(x, CatsWeights.pack(linear(9, 12), linear(9, 12), linear(4, 9), activation="relu"), thresholds)
