"""Gate and products of requests whose rows share a mask, in one call: masks, counts, caps and values as apart."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import GateWeights, MlpWeights, gated_shared, reference
from swan_runtime.kernels.ops import request_means

INPUTS, UNITS, OUTPUTS = 24, 70, 20


def block(seed: int = 0) -> tuple[GateWeights, MlpWeights]:
    torch.manual_seed(seed)
    up, down, bias = torch.randn(UNITS, INPUTS), torch.randn(OUTPUTS, UNITS) / 8, torch.randn(UNITS)
    w = MlpWeights.pack(up / 5, bias, down, None, torch.randn(UNITS), activation="gelu")
    return GateWeights.pack(torch.randn(INPUTS, 5), torch.randn(UNITS, 5), torch.randn(UNITS)), w


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 80), min_size=1, max_size=4),
    cap=st.integers(0, UNITS),
    threshold=st.sampled_from([-float("inf"), -1.0, 0.0, 3.0, float("inf")]),
    threads=st.integers(1, 2),
)
def test_masks_counts_and_values_are_those_of_each_requests_mean_row(
    lengths: list[int], cap: int, threshold: float, threads: int
) -> None:
    gate, w = block()
    offsets = torch.tensor([0, *accumulate(lengths)])
    x = torch.randn(int(offsets[-1]), INPUTS)
    thresholds = torch.full((len(lengths),), threshold)
    caps = torch.tensor([cap, UNITS, UNITS // 2, UNITS][: len(lengths)])
    found = gated_shared(x, gate, thresholds, caps, w, offsets, threads=threads)
    scores = reference.lowrank_scores(request_means(x, offsets), gate)
    above = (scores > thresholds[:, None]).sum(1)
    assert found.counts.tolist() == found.mask.sum(1).tolist() == above.minimum(caps).tolist()
    assert found.hits.tolist() == (above > caps).to(torch.int64).tolist()
    for row, mask in zip(scores, found.mask, strict=True):
        if 0 < int(mask.sum()) < UNITS:
            assert row[mask].min() >= row[~mask].max() - 1e-5
    per_row = found.mask.repeat_interleave(torch.tensor(lengths), dim=0)
    torch.testing.assert_close(found.y, reference.rows(x, per_row, w), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_scores_that_are_not_finite_are_refused(threads: int) -> None:
    gate, w = block()
    x = torch.randn(6, INPUTS)
    x[4, 3] = float("nan")
    with pytest.raises(InvalidInputError, match="scores"):
        gated_shared(x, gate, torch.zeros(2), torch.tensor([UNITS, UNITS]), w, torch.tensor([0, 3, 6]), threads=threads)


@pytest.mark.parametrize("offsets", [[1, 6], [0, 5], [0, 7, 6]])
def test_offsets_that_do_not_cover_the_rows_in_order_are_refused(offsets: list[int]) -> None:
    gate, w = block()
    requests = len(offsets) - 1
    caps = torch.full((requests,), UNITS)
    with pytest.raises(InvalidInputError, match="offsets"):
        gated_shared(torch.randn(6, INPUTS), gate, torch.zeros(requests), caps, w, torch.tensor(offsets))
