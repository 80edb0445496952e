"""Every kernel equals the mask-multiply oracle, whatever the shape, density, layout, thread count and company."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import (
    ConvWeights,
    GateWeights,
    GluWeights,
    MlpWeights,
    conv,
    gated,
    glu,
    lowrank_mask,
    lowrank_scores,
    mlp,
    mlp_shared,
    reference,
    threshold_mask,
)
from swan_runtime.kernels.conv_weights import Acon
from swan_runtime.kernels.linear import linear as linear_op
from swan_runtime.kernels.native import library
from swan_runtime.kernels.weights import LinearWeights

NATIVE = [] if library() is None else ["native"]
DENSITY = st.sampled_from([0.0, 0.03, 0.3, 0.7, 1.0])
ACTIVATION = st.sampled_from(["relu", "gelu", "silu", "identity"])
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def linear(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    return torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)


def block(inputs: int, units: int, outputs: int, activation: str, is_glu: bool, mean: bool) -> MlpWeights | GluWeights:
    means = torch.randn(units) if mean else None
    if is_glu:
        parts = linear(units, inputs), linear(units, inputs), linear(outputs, units)
        return GluWeights.pack(*parts, means, activation=activation)
    return MlpWeights.pack(*linear(units, inputs), *linear(outputs, units), means, activation=activation)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        got, expected, rtol=2e-4, atol=2e-5 * max(1.0, float(expected.abs().max() if expected.numel() else 0))
    )


def run(w: MlpWeights | GluWeights, x: Tensor, mask: Tensor, kernel: str, threads: int) -> Tensor:
    op = glu if isinstance(w, GluWeights) else mlp
    return op(x, mask, w, kernel=kernel, threads=threads).y  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [*NATIVE, "numba", "dense", "reference"])
@relaxed
@given(
    rows=st.integers(0, 75),
    inputs=st.integers(1, 90),
    units=st.integers(1, 150),
    outputs=st.integers(1, 150),
    density=DENSITY,
    activation=ACTIVATION,
    is_glu=st.booleans(),
    mean=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_row_kernels_equal_the_oracle(
    kernel: str, rows: int, inputs: int, units: int, outputs: int, density: float, activation: str, is_glu: bool,
    mean: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    w = block(inputs, units, outputs, activation, is_glu, mean)
    x, mask = torch.randn(rows, inputs), torch.rand(rows, units) < density
    close(run(w, x, mask, kernel, threads), reference.rows(x, mask, w))


@pytest.mark.parametrize("kernel", NATIVE)
@settings(max_examples=8, deadline=None)
@given(rows=st.integers(9, 66), inputs=st.integers(257, 1300), density=DENSITY, is_glu=st.booleans())
def test_rows_too_wide_for_the_first_cache_equal_the_oracle(
    kernel: str, rows: int, inputs: int, density: float, is_glu: bool
) -> None:
    torch.manual_seed(rows)
    w = block(inputs, 70, 33, "gelu", is_glu, mean=True)
    x, mask = torch.randn(rows, inputs), torch.rand(rows, 70) < density
    close(run(w, x, mask, kernel, 1), reference.rows(x, mask, w))


@pytest.mark.parametrize("kernel", [*NATIVE, "gather", "dense", "reference"])
@relaxed
@given(
    lengths=st.lists(st.integers(0, 110), max_size=4),
    inputs=st.integers(1, 70),
    units=st.integers(1, 110),
    outputs=st.integers(1, 140),
    density=DENSITY,
    activation=ACTIVATION,
    is_glu=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_shared_mask_kernels_equal_the_oracle(
    kernel: str, lengths: list[int], inputs: int, units: int, outputs: int, density: float, activation: str,
    is_glu: bool, threads: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    w = block(inputs, units, outputs, activation, is_glu, True)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    x, mask = torch.randn(int(offsets[-1]), inputs), torch.rand(len(lengths), units) < density
    per_row = mask.repeat_interleave(torch.tensor(lengths, dtype=torch.int64), dim=0)
    got = mlp_shared(x, mask, w, offsets=offsets, kernel=kernel, threads=threads)
    assert got.kernel == kernel
    close(got.y, reference.rows(x, per_row, w))


@pytest.mark.parametrize("kernel", [*NATIVE, "dense"])
@settings(max_examples=6, deadline=None)
@given(
    rows=st.integers(150, 420),
    inputs=st.integers(100, 900),
    units=st.integers(90, 330),
    outputs=st.integers(100, 300),
    density=DENSITY,
    is_glu=st.booleans(),
)
def test_many_rows_in_groups_and_units_in_blocks_equal_the_oracle(
    kernel: str, rows: int, inputs: int, units: int, outputs: int, density: float, is_glu: bool
) -> None:
    torch.manual_seed(rows)
    w = block(inputs, units, outputs, "gelu", is_glu, mean=True)
    x, own, one = torch.randn(rows, inputs), torch.rand(rows, units) < density, torch.rand(1, units) < density
    close(run(w, x, own, kernel, 1), reference.rows(x, own, w))
    close(mlp_shared(x[None], one, w, kernel=kernel).y[0], reference.rows(x, one.expand(rows, -1), w))


@relaxed
@given(rows=st.integers(0, 210), inputs=st.integers(1, 300), units=st.integers(1, 230), seed=st.integers(0, 9))
def test_a_linear_layer_equals_torch_at_any_number_of_rows(rows: int, inputs: int, units: int, seed: int) -> None:
    torch.manual_seed(seed)
    matrix, bias = linear(units, inputs)
    x = torch.randn(rows, inputs)
    close(linear_op(x, LinearWeights.pack(matrix, bias)), torch.nn.functional.linear(x, matrix, bias))


@pytest.mark.parametrize("kernel", [*NATIVE, "gather", "dense", "reference"])
@relaxed
@given(
    samples=st.integers(0, 3),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 6)),
    size=st.tuples(st.integers(3, 21), st.integers(3, 21)),
    kernels=st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 2, 3])),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    density=DENSITY,
    activation=st.sampled_from(["relu", "gelu", "identity", "acon", "meta-acon"]),
    threads=st.integers(1, 2),
)
def test_conv_kernels_equal_the_oracle(
    kernel: str, samples: int, channels: tuple[int, int, int], size: tuple[int, int], kernels: tuple[int, int],
    stride: int, padding: tuple[int, int], density: float, activation: str, threads: int,
) -> None:  # fmt: skip
    torch.manual_seed(samples)
    inputs, units, outputs = channels
    first, second = kernels
    middle = [(side + 2 * padding[0] - first) // stride + 1 for side in size]
    if min(middle) + 2 * padding[1] < second:
        return
    is_acon = "acon" in activation
    w = ConvWeights.pack(
        (torch.randn(units, inputs, first, first), torch.randn(units)),
        (torch.randn(outputs, units, second, second), torch.randn(outputs)),
        torch.randn(units),
        activation="acon" if is_acon else activation,
        stride=stride,
        padding=padding,
        acon=Acon(*torch.randn(3, units)) if is_acon else None,
    )
    x, mask = torch.randn(samples, inputs, *size), torch.rand(samples, units) < density
    beta = torch.rand(samples, units) if activation == "meta-acon" else None
    close(conv(x, mask, w, beta=beta, kernel=kernel, threads=threads).y, reference.conv(x, mask, w, beta))


@relaxed
@given(
    rows=st.integers(0, 70),
    inputs=st.integers(1, 60),
    rank=st.integers(1, 20),
    units=st.integers(1, 200),
    k_max=st.none() | st.integers(0, 40),
    seed=st.integers(0, 9),
)
def test_gate_masks_equal_thresholding_the_scores(
    rows: int, inputs: int, rank: int, units: int, k_max: int | None, seed: int
) -> None:
    torch.manual_seed(seed)
    gate = GateWeights.pack(torch.randn(inputs, rank), torch.randn(units, rank), torch.randn(units))
    x, thresholds = torch.randn(rows, inputs), torch.randn(rows)
    scores = lowrank_scores(x, gate)
    close(scores, reference.lowrank_scores(x, gate))
    got, expected = lowrank_mask(x, gate, thresholds, k_max), threshold_mask(scores, thresholds, k_max)
    assert torch.equal(got.mask, expected.mask)
    assert torch.equal(got.counts, expected.counts)
    assert got.cap_hits == expected.cap_hits
    assert torch.equal(got.counts, got.mask.sum(1))


@relaxed
@given(rows=st.integers(0, 70), low=st.floats(-3, 3), k_max=st.none() | st.integers(0, 60), threads=st.integers(1, 2))
def test_gated_equals_gate_then_oracle_with_a_threshold_a_row(
    rows: int, low: float, k_max: int | None, threads: int
) -> None:
    torch.manual_seed(rows)
    w = block(24, 70, 20, "relu", False, True)
    gate = GateWeights.pack(torch.randn(24, 3), torch.randn(70, 3))
    x, thresholds = torch.randn(rows, 24), torch.linspace(low, 4, rows) if rows else torch.zeros(0)
    result = gated(x, gate, thresholds, w, k_max=k_max, threads=threads)
    close(result.y, reference.rows(x, result.mask, w))
    assert torch.equal(result.counts, result.mask.sum(1))
    assert result.kernel in ("native", "numba", "dense")
    if k_max is None:
        assert torch.equal(result.mask, lowrank_scores(x, gate) > thresholds[:, None])
    else:
        assert not rows or int(result.counts.max()) <= k_max


def test_budget_one_runs_every_unit_without_a_gate() -> None:
    w = block(8, 30, 5, "silu", True, False)
    gate = GateWeights.pack(torch.randn(8, 2), torch.randn(30, 2))
    x = torch.randn(3, 8)
    result = gated(x, gate, torch.full((3,), -torch.inf), w)
    assert result.counts.tolist() == [30, 30, 30]
    close(result.y, reference.rows(x, torch.ones(3, 30, dtype=torch.bool), w))


@pytest.mark.parametrize("kernel", [*NATIVE, "numba", "dense"])
def test_inputs_need_not_be_contiguous(kernel: str) -> None:
    torch.manual_seed(0)
    w = block(20, 40, 7, "gelu", False, True)
    x, mask = torch.randn(20, 9).t(), (torch.rand(40, 18) < 0.4).t()[::2]
    close(run(w, x, mask, kernel, 1), reference.rows(x, mask, w))


@pytest.mark.parametrize("kernel", [*NATIVE, "numba"])
def test_concurrent_calls_do_not_disturb_each_other(kernel: str) -> None:
    torch.manual_seed(0)
    blocks = [block(16 + i, 60 + 40 * i, 30, "relu", i % 2 == 0, True) for i in range(4)]
    calls = [(w, torch.randn(1 + 20 * i, w.inputs)) for i in range(4) for w in blocks] * 4
    calls_with_masks = [(w, x, torch.rand(x.shape[0], w.units) < 0.4) for w, x in calls]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda call: run(*call, kernel, 2), calls_with_masks))
    for (w, x, mask), y in zip(calls_with_masks, results, strict=True):
        close(y, reference.rows(x, mask, w))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_one_bad_row_among_many_is_refused(bad: float) -> None:
    w = block(6, 40, 3, "relu", False, False)
    gate = GateWeights.pack(torch.randn(6, 2), torch.randn(40, 2))
    x = torch.randn(70, 6)
    x[66, 2] = bad
    with pytest.raises(InvalidInputError, match="scores: expected finite values, got NaN or Inf"):
        gated(x, gate, torch.zeros(70), w)


def test_wrong_arguments_name_the_field() -> None:
    w = block(6, 40, 3, "relu", False, False)
    x, mask = torch.randn(2, 6), torch.ones(2, 40, dtype=torch.bool)
    gate = GateWeights.pack(torch.randn(6, 2), torch.randn(41, 2))
    cases = {
        "x": lambda: mlp(x.double(), mask, w),  # type: ignore[arg-type]
        "mask": lambda: mlp(x, mask.float(), w),  # type: ignore[arg-type]
        "kernel": lambda: mlp(x, mask, w, kernel="fast"),  # type: ignore[arg-type]
        "threads": lambda: mlp(x, mask, w, threads=0),  # type: ignore[arg-type]
        "offsets": lambda: mlp_shared(x, mask, w, offsets=torch.tensor([0, 3, 2])),
        "gate": lambda: gated(x, gate, torch.zeros(2), w),
        "thresholds": lambda: lowrank_mask(x, gate, torch.zeros(3)),
        "k_max": lambda: lowrank_mask(x, gate, torch.zeros(2), k_max=-1),
        "activation": lambda: block(6, 4, 3, "tanh", False, False),
    }
    for field, call in cases.items():
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field == field


def test_meta_acon_beta_needs_an_acon_block() -> None:
    w = ConvWeights.pack(
        (torch.randn(2, 1, 1, 1), None), (torch.randn(1, 2, 1, 1), None), activation="relu", padding=(0, 0)
    )
    with pytest.raises(InvalidInputError, match="beta"):
        conv(torch.randn(1, 1, 4, 4), torch.ones(1, 2, dtype=torch.bool), w, beta=torch.ones(1, 2))
