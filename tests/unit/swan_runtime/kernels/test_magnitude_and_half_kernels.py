"""CATS, sparse inputs, bfloat16 weights and AVX2: each equals the mask-multiply oracle on the same numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.cache import cache_directory
from swan_runtime.convert import harden_
from swan_runtime.errors import InvalidInputError
from swan_runtime.gate import MagnitudeGate
from swan_runtime.input_gate import GatedInputLinear
from swan_runtime.kernels import (
    CatsWeights,
    GateWeights,
    GluWeights,
    InputWeights,
    MlpWeights,
    cats,
    cats_branch,
    gated,
    glu,
    lowrank_scores,
    magnitude_mask,
    mlp,
    mlp_shared,
    reference,
    sparse_inputs,
    threshold_mask,
)
from swan_runtime.kernels.native import Library, build, library
from swan_runtime.layers import GatedFFN, GatedGLU, GatedLayer, name_layers_
from swan_runtime.plan import HardPlan

FAMILY = torch.backends.cpu.get_cpu_capability()
# AVX2 code runs on every CPU that has AVX-512, so both are tested wherever the better one is there.
FAMILIES = [] if library() is None else ["AVX2", "AVX512"] if FAMILY == "AVX512" else ["AVX2"]
relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ROWS = st.integers(0, 75)
DENSITY = st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0])


@contextmanager
def native(family: str) -> Iterator[None]:
    """The native library compiled for `family` serves inside the block."""
    loaded = Library(build.build(family, cache_directory() / "kernels"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[Library.__module__], "_load", lambda: loaded)
        yield


def close(got: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5 * max(1.0, scale))


def linear(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    return torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)


def each_kernel() -> list[tuple[str, str]]:
    return [*(("native", family) for family in FAMILIES), ("numba", FAMILY), ("dense", FAMILY), ("reference", FAMILY)]


@contextmanager
def serving(kernel: str, family: str) -> Iterator[None]:
    if kernel != "native":
        yield
        return
    with native(family):
        yield


@pytest.mark.parametrize(("kernel", "family"), each_kernel())
@relaxed
@given(
    rows=ROWS, sizes=st.tuples(*[st.integers(1, 150)] * 3), density=DENSITY,
    activation=st.sampled_from(["silu", "relu"]), half=st.booleans(), threads=st.integers(1, 2),
)  # fmt: skip
def test_cats_kernels_equal_a_glu_with_the_mask_multiplied(
    kernel: str, family: str, rows: int, sizes: tuple[int, int, int], density: float, activation: str, half: bool,
    threads: int,
) -> None:  # fmt: skip
    torch.manual_seed(rows)
    inputs, units, outputs = sizes
    branch, up, down, mean = linear(units, inputs), linear(units, inputs), linear(outputs, units), torch.randn(units)
    w = CatsWeights.pack(branch, up, down, mean, activation=activation, half=half)
    if half:
        up, down = ((weight.bfloat16().float(), bias) for weight, bias in (up, down))
    x, mask = torch.randn(rows, inputs), torch.rand(rows, units) < density
    value = getattr(F, activation)(F.linear(x, *branch)) * F.linear(x, *up)
    expected = F.linear(torch.where(mask, value, mean), *down)
    with serving(kernel, family):
        activated = getattr(F, activation)(cats_branch(x, w))
        y, served = cats(x, activated, mask, w, kernel=kernel, threads=threads)
    assert served == kernel
    close(y, expected)


@pytest.mark.parametrize(("kernel", "family"), each_kernel())
@relaxed
@given(
    rows=ROWS, inputs=st.integers(1, 200), outputs=st.integers(1, 150), density=DENSITY, rank=st.integers(0, 3),
    half=st.booleans(), threads=st.integers(1, 2),
)  # fmt: skip
def test_input_kernels_equal_a_linear_layer_on_masked_inputs(
    kernel: str, family: str, rows: int, inputs: int, outputs: int, density: float, rank: int, half: bool, threads: int
) -> None:
    torch.manual_seed(rows)
    (matrix, bias), mean = linear(outputs, inputs), torch.randn(inputs)
    left, right = torch.randn(outputs, rank), torch.randn(rank, inputs)
    w = InputWeights.pack((matrix, bias), mean, None, (left, right) if rank else None, half=half)
    x, mask = torch.randn(rows, inputs), torch.rand(rows, inputs) < density
    kept = torch.where(mask, x, mean)
    expected = F.linear(kept, matrix.bfloat16().float() if half else matrix, bias) + (x - kept) @ right.T @ left.T
    with serving(kernel, family):
        y, served = sparse_inputs(x, mask, w, kernel=kernel, threads=threads)
    assert served == kernel
    close(y, expected)


@pytest.mark.parametrize("family", FAMILIES)
@relaxed
@given(rows=ROWS, units=st.integers(1, 200), k_max=st.none() | st.integers(0, 60), seed=st.integers(0, 5))
def test_magnitude_masks_equal_thresholding_the_scores(
    family: str, rows: int, units: int, k_max: int | None, seed: int
) -> None:
    torch.manual_seed(seed)
    # Few distinct values: ties at the threshold and at the cap are common.
    values, weight = torch.randint(-6, 7, (rows, units)) / 4, torch.randint(1, 3, (units,)).float()
    thresholds = torch.randint(0, 8, (rows,)) / 4
    expected = threshold_mask(values.abs() * weight, thresholds, k_max)
    with native(family):
        got = magnitude_mask(values.clone(), weight, thresholds, k_max)
        activated = values.clone()
        magnitude_mask(activated, weight, thresholds, k_max, activation="silu")
    assert torch.equal(got.mask, expected.mask)
    assert torch.equal(got.counts, expected.counts)
    assert got.cap_hits == expected.cap_hits
    close(activated, F.silu(values))


@pytest.mark.parametrize("family", FAMILIES)
@relaxed
@given(
    rows=ROWS, sizes=st.tuples(*[st.integers(1, 300)] * 3), density=DENSITY, is_glu=st.booleans(), half=st.booleans(),
    activation=st.sampled_from(["relu", "gelu"]),
)  # fmt: skip
def test_native_rows_equal_the_oracle_on_every_instruction_set_and_weight_format(
    family: str, rows: int, sizes: tuple[int, int, int], density: float, is_glu: bool, half: bool, activation: str
) -> None:
    torch.manual_seed(rows)
    inputs, units, outputs = sizes
    first, second, down = linear(units, inputs), linear(units, inputs), linear(outputs, units)
    w: MlpWeights | GluWeights
    if is_glu:
        w = GluWeights.pack(first, second, down, torch.randn(units), activation=activation, half=half)
    else:
        w = MlpWeights.pack(*first, *down, torch.randn(units), activation=activation, half=half)
    x, mask = torch.randn(rows, inputs), torch.rand(rows, units) < density
    op = glu if is_glu else mlp
    with native(family):
        close(op(x, mask, w, kernel="native").y, reference.rows(x, mask, w))  # type: ignore[arg-type]
        if rows:
            shared = mlp_shared(x[None], mask[:1], w, kernel="native").y[0]
            close(shared, reference.rows(x, mask[:1].expand(rows, -1), w))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_the_gate_in_one_call_serves_on_every_instruction_set(family: str, rows: int) -> None:
    torch.manual_seed(0)
    w = MlpWeights.pack(*linear(300, 40), *linear(30, 300), activation="relu", half=True)
    gate = GateWeights.pack(torch.randn(40, 5), torch.randn(300, 5))
    x, thresholds = torch.randn(rows, 40), torch.linspace(-2, 4, rows)
    with native(family):
        result = gated(x, gate, thresholds, w, k_max=200)
        scores = lowrank_scores(x, gate)
    expected = threshold_mask(scores, thresholds, 200)
    assert torch.equal(result.mask, expected.mask)
    close(result.y, reference.rows(x, result.mask, w))


def test_bfloat16_weights_are_off_by_what_rounding_takes_and_no_more() -> None:
    torch.manual_seed(0)
    parts = (*linear(200, 64), *linear(48, 200))
    exact, half = (MlpWeights.pack(*parts, activation="gelu", half=half) for half in (False, True))
    x, mask = torch.randn(9, 64), torch.rand(9, 200) < 0.4
    wanted, got = mlp(x, mask, exact).y, mlp(x, mask, half).y
    error = float((got - wanted).norm() / wanted.norm())
    assert 1e-5 < error < 2**-7  # one bfloat16 holds 8 bits
    assert half.half is not None
    assert half.half.up is not None
    assert half.half.up.dtype is torch.bfloat16


def networks() -> list[tuple[GatedLayer, Tensor]]:
    torch.manual_seed(0)
    cats_layer = GatedGLU(12, 40, 9, MagnitudeGate(40))
    cats_layer.gate.weight.uniform_(0.5, 2.0)
    layers: list[tuple[GatedLayer, Tensor]] = [
        (cats_layer, torch.randn(11, 12)),
        (GatedInputLinear(nn.Linear(30, 17)), torch.randn(1, 30)),
        (GatedInputLinear(nn.Linear(30, 17, bias=False), 4), torch.randn(6, 5, 30)),
        (GatedFFN(16, 50), torch.randn(3, 7, 16)),
    ]
    for layer, _ in layers:
        layer.mean.normal_(0, 0.2)
        name_layers_(layer)
    return layers


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@torch.no_grad()
def test_hardened_magnitude_layers_equal_the_reference_with_the_same_counts_and_caps(weights: str) -> None:
    for layer, x in networks():
        for caps in (None, [3 + 4 * row for row in range(len(x))]):
            thresholds = torch.linspace(0.05, 0.6, len(x))
            plans = [
                HardPlan({"layer": thresholds.clone()}, {} if caps is None else {"layer": caps}, reference=reference)
                for reference in (False, True)
            ]
            harden_(layer, weights)
            assert layer.packed is not None
            got, expected = layer(x, plans[0]), layer(x, plans[1])
            tolerance = 1e-5 if weights == "float32" else 2**-6
            torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
            fast, slow = plans[0].traces["layer"], plans[1].traces["layer"]
            assert fast.kernel in ("native", "numba", "dense")
            for name in ("active", "total", "cap_hits", "macs_active", "macs_gate", "macs_dense"):
                assert getattr(fast, name) == getattr(slow, name), name


@torch.no_grad()
def test_hardened_magnitude_layers_refuse_nan_and_unknown_weight_formats() -> None:
    for layer, x in networks()[:3]:
        harden_(layer)
        x = x.clone()
        x.view(-1)[3] = float("nan")
        with pytest.raises(InvalidInputError, match=r"layer\.scores: expected finite values"):
            layer(x, HardPlan.uniform({"layer": 0.1}, len(x)))
    with pytest.raises(InvalidInputError, match="weights: expected float32 or bfloat16"):
        harden_(networks()[0][0], "float16")


def test_arguments_of_magnitude_ops_are_checked() -> None:
    w = InputWeights.pack(linear(4, 6))
    c = CatsWeights.pack(linear(8, 6), linear(8, 6), linear(4, 8), activation="silu")
    x, mask = torch.randn(2, 6), torch.ones(2, 6, dtype=torch.bool)
    ones = torch.ones(2, 8, dtype=torch.bool)
    cases = {
        "x": lambda: sparse_inputs(x[:, :5], mask, w),
        "mask": lambda: sparse_inputs(x, mask[:1], w),
        "kernel": lambda: sparse_inputs(x, mask, w, kernel="gather"),
        "branch": lambda: cats(x, torch.randn(2, 7), ones, c),
        "threads": lambda: cats(x, torch.randn(2, 8), ones, c, threads=0),
        "k_max": lambda: magnitude_mask(x.clone(), w.weight, torch.zeros(2), -1),
    }
    for field, call in cases.items():
        with pytest.raises(InvalidInputError) as caught:
            call()
        assert caught.value.field == field
