"""The convolution kernels by name: each turns x [B, C, H, W] and a bool mask [B, K] into y [B, O, H'', W'']."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from swan_runtime.kernels import reference
from swan_runtime.kernels.activations import acon, activate
from swan_runtime.kernels.conv_weights import ConvWeights
from swan_runtime.kernels.native import library
from swan_runtime.kernels.parallel import share_out

# x [B, C, H, W], mask bool [B, K], weights, beta [B, K] or None -> y [B, O, H'', W'']
ConvKernel = Callable[[Tensor, Tensor, ConvWeights, Tensor | None], Tensor]


def native(x: Tensor, mask: Tensor, w: ConvWeights, beta: Tensor | None, threads: int = 1) -> Tensor:
    """Direct convolution over the active channels, nothing copied; samples are shared out over the threads.

    y has its channels last in memory, as x may.
    """
    loaded = library()
    assert loaded is not None, "offered only where the library is loaded"
    y = torch.empty(x.shape[0], *w.out_size(x.shape[2], x.shape[3]), w.outputs)
    if threads == 1:
        loaded.conv(w, x, mask, beta, y)  # no slices: those of one small map take as long as its convolution
        return y.permute(0, 3, 1, 2)

    def part_of(part: slice) -> None:
        loaded.conv(w, x[part], mask[part], None if beta is None else beta[part], y[part])

    if x.shape[0]:
        share_out(part_of, x.shape[0], threads)
    return y.permute(0, 3, 1, 2)


def gather(x: Tensor, mask: Tensor, w: ConvWeights, beta: Tensor | None) -> Tensor:
    """Sample by sample: gather the active channels' weights, then oneDNN on them."""
    fold = w.fold(*w.middle_size(x.shape[2], x.shape[3]))
    y = fold.repeat(x.shape[0], 1, 1, 1)
    for i in range(x.shape[0]):
        index = mask[i].nonzero().flatten()
        if index.numel() == 0:
            continue
        value = F.conv2d(x[i : i + 1], w.up[index], w.up_bias[index], stride=w.stride, padding=w.padding)
        switch = None if beta is None else beta[i, index]
        value = _activate(value, w, index, switch).sub_(w.mean[index].view(1, -1, 1, 1))
        y[i] += F.conv2d(value, w.down_t[index].permute(3, 0, 1, 2), padding=w.down_padding)[0]
    return y if w.tail is None else w.tail.apply(y, x)


def dense(x: Tensor, mask: Tensor | None, w: ConvWeights, beta: Tensor | None) -> Tensor:
    """All channels of all samples at once, then the mask: for batches whose masks keep nearly everything.

    mask None: every channel of every sample is active, so no mean is used.
    """
    value = reference.middle(x, w, beta)
    if mask is None:
        y = F.conv2d(value, w.down(), w.down_bias, padding=w.down_padding)
    elif w.centred:
        y = F.conv2d(value.mul_(mask[:, :, None, None]), w.down(), w.down_bias, padding=w.down_padding)
    else:
        value = value.sub_(w.mean.view(1, -1, 1, 1)).mul_(mask[:, :, None, None])
        y = F.conv2d(value, w.down(), padding=w.down_padding).add_(w.fold(*w.middle_size(x.shape[2], x.shape[3])))
    return y if w.tail is None else w.tail.apply(y, x)


def _activate(value: Tensor, w: ConvWeights, index: Tensor, beta: Tensor | None) -> Tensor:
    if w.acon is None:
        return activate(value, w.activation)
    shape = (1, -1, 1, 1)
    switch = w.acon.beta[index] if beta is None else beta
    return acon(value, w.acon.p1[index].view(shape), w.acon.p2[index].view(shape), switch.view(shape))


CONV_KERNELS: dict[str, ConvKernel] = {
    "native": native,
    "gather": gather,
    "dense": dense,
    "reference": reference.conv,
}


def run(
    kernel: str, w: ConvWeights, x: Tensor, mask: Tensor, beta: Tensor | None, threads: int, active: int = -1
) -> Tensor:
    """y of one kernel; only the native one uses more than one thread. active: of all samples, if it is known."""
    if kernel == "dense":
        return dense(x, None if active == mask.numel() else mask, w, beta)
    return native(x, mask, w, beta, threads) if kernel == "native" else CONV_KERNELS[kernel](x, mask, w, beta)
