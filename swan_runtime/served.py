"""A plain linear layer that a hardened model runs on the kernels."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from swan_runtime.kernels.linear import linear
from swan_runtime.kernels.weights import LinearWeights
from swan_runtime.packable import Packable


class Watch(threading.local):
    """How many modes that look at torch's operators are on in this thread: our own products are none of those."""

    depth = 0


WATCH = Watch()


class ServedLinear(Packable[LinearWeights], nn.Linear):
    """nn.Linear, and nothing else until harden_ sets `packed`: then calls without gradients run on our dense product.

    It shares the layer's memory. Where MACs are counted in this thread, torch runs.
    """

    def pack(self) -> None:
        """Needs float32 on a CPU; anything else stays with torch."""
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        if weight.dtype is torch.float32 and weight.is_cpu and weight.is_contiguous():
            self.packed = LinearWeights(weight, weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None or torch.is_grad_enabled() or x.dtype is not torch.float32 or WATCH.depth:
            return super().forward(x)
        return linear(x.reshape(-1, self.in_features), self.packed).view(*x.shape[:-1], self.out_features)
