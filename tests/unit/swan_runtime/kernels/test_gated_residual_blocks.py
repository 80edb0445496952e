"""The pooled gate and the residual tail: native calls against the oracle, over layouts, sizes, caps and bad scores."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from swan_runtime.errors import InvalidInputError
from swan_runtime.kernels import conv, reference, threshold_mask
from swan_runtime.kernels.channel_gate import Bottleneck, ChannelGateWeights, channel_scores
from swan_runtime.kernels.channel_mask import native_channel_mask
from swan_runtime.kernels.conv_weights import Acon, ConvWeights, Tail
from swan_runtime.kernels.native import library

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NATIVE = library()
needs_native = pytest.mark.skipif(NATIVE is None, reason="no C compiler or an unknown CPU")


def bottleneck(inputs: int, width: int, units: int) -> Bottleneck:
    return Bottleneck.pack(
        (torch.randn(width, inputs), torch.randn(width)), (torch.randn(units, width), torch.randn(units))
    )


def ordered(x: Tensor, channels_last: bool) -> Tensor:
    return x.to(memory_format=torch.channels_last) if channels_last else x


@needs_native
@relaxed
@given(
    samples=st.integers(0, 20),
    inputs=st.integers(1, 40),
    width=st.integers(1, 20),
    units=st.integers(1, 70),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    cap=st.none() | st.integers(0, 70),
    switched=st.booleans(),
    channels_last=st.booleans(),
)
def test_native_channel_masks_equal_thresholding_the_scores(
    samples: int, inputs: int, width: int, units: int, size: tuple[int, int], cap: int | None, switched: bool,
    channels_last: bool,
) -> None:  # fmt: skip
    torch.manual_seed(units)
    switch = bottleneck(inputs, width + 3, units) if switched else None
    gate = ChannelGateWeights(bottleneck(inputs, width, units), switch)
    x, thresholds = torch.randn(samples, inputs, *size), torch.randn(samples)
    scores, beta = channel_scores(x, gate)
    # Midway between two scores, so that rounding cannot decide.
    for i in range(samples):
        line = scores[i].sort().values
        at = int(thresholds[i].sigmoid() * (units - 1))
        thresholds[i] = (line[at] + line[min(at + 1, units - 1)]) / 2 if at + 1 < units else -torch.inf
    caps = None if cap is None else [min(cap, units)] * samples
    assert NATIVE is not None
    got = native_channel_mask(NATIVE, ordered(x, channels_last), gate, thresholds, caps)
    wanted = threshold_mask(scores, thresholds, None if caps is None else min(cap or 0, units))
    assert torch.equal(got.mask, wanted.mask)
    assert got.counts == wanted.counts.tolist()
    assert sum(got.hits) == wanted.cap_hits
    assert (got.beta is None) == (switch is None)
    if beta is not None and got.beta is not None:
        torch.testing.assert_close(got.beta, beta, rtol=1e-5, atol=1e-6)


@needs_native
def test_scores_that_are_not_finite_are_refused_and_so_is_another_number_of_channels() -> None:
    gate = ChannelGateWeights(bottleneck(3, 4, 5))
    assert NATIVE is not None
    with pytest.raises(InvalidInputError, match="NaN or infinity"):
        native_channel_mask(NATIVE, torch.full((1, 3, 2, 2), torch.nan), gate, torch.zeros(1))
    with pytest.raises(InvalidInputError, match=r"\[any, 3, any, any\]"):
        native_channel_mask(NATIVE, torch.zeros(1, 4, 2, 2), gate, torch.zeros(1))


@pytest.mark.parametrize("kernel", [*(["native"] if NATIVE else []), "gather", "dense"])
@relaxed
@given(
    samples=st.integers(0, 19),
    channels=st.sampled_from([(3, 20, 3), (16, 40, 16), (32, 50, 33), (16, 130, 64), (7, 9, 20)]),
    size=st.sampled_from([(4, 4), (7, 7), (14, 14), (5, 9), (28, 3)]),
    stride=st.integers(1, 2),
    density=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    relu=st.booleans(),
    channels_last=st.booleans(),
    threads=st.integers(1, 2),
)
def test_a_whole_residual_block_equals_the_oracle(
    kernel: str, samples: int, channels: tuple[int, int, int], size: tuple[int, int], stride: int, density: float,
    relu: bool, channels_last: bool, threads: int,
) -> None:  # fmt: skip
    torch.manual_seed(samples)
    inputs, units, outputs = channels
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = torch.randn(outputs, inputs) * 0.1, torch.randn(outputs)
    w = ConvWeights.pack(
        (torch.randn(units, inputs, 3, 3) * 0.1, torch.randn(units)),
        (torch.randn(outputs, units, 3, 3) * 0.1, torch.randn(outputs)),
        torch.randn(units),
        activation="acon",
        stride=stride,
        acon=Acon(*torch.randn(3, units)),
        tail=Tail(shortcut, stride, relu),
    )
    x = ordered(torch.randn(samples, inputs, *size), channels_last)
    mask, beta = torch.rand(samples, units) < density, torch.rand(samples, units)
    got = conv(x, mask, w, beta=beta, kernel=kernel, threads=threads)
    torch.testing.assert_close(got.y, reference.conv(x, mask, w, beta), rtol=2e-4, atol=2e-4)


@needs_native
def test_a_large_batch_that_reads_the_weights_in_ranges_equals_the_oracle() -> None:
    torch.manual_seed(0)
    w = ConvWeights.pack(
        (torch.randn(384, 64, 3, 3) * 0.05, torch.randn(384)),
        (torch.randn(128, 384, 3, 3) * 0.05, None),
        torch.randn(384) * 0.1,
        activation="relu",
        stride=2,
        tail=Tail((torch.randn(128, 64) * 0.1, torch.randn(128)), 2),
    )
    x = torch.randn(37, 64, 7, 7)
    mask = torch.rand(37, 384) < torch.linspace(0, 1, 37)[:, None]
    got = conv(x, mask, w, kernel="native").y
    torch.testing.assert_close(got, reference.conv(x, mask, w), rtol=2e-4, atol=2e-4)
    one = torch.cat([conv(x[i : i + 1], mask[i : i + 1], w, kernel="native").y for i in range(37)])
    torch.testing.assert_close(got, one, rtol=1e-4, atol=1e-4)
