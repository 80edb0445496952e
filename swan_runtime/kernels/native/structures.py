"""The C structures of conv.c and channels.c, filled from packed weights."""

from __future__ import annotations

import ctypes
from ctypes import c_int64, c_void_p
from typing import Any

from torch import Tensor

from swan_runtime.kernels.activations import CODES
from swan_runtime.kernels.channel_gate import ChannelGateWeights
from swan_runtime.kernels.conv_weights import ConvWeights, panels


def fields(integers: str, pointers: str) -> list[tuple[str, Any]]:
    return [(name, c_int64) for name in integers.split()] + [(name, c_void_p) for name in pointers.split()]


class Conv(ctypes.Structure):
    """struct conv of native/conv.c."""

    _fields_ = fields(
        "units inputs outputs height width channels_last kernel_h kernel_w stride padding down_h down_w down_padding "
        "activation tail shortcut_stride relu",
        "up up_bias down mean p1 p2 fold shortcut",
    )


class BottleneckFields(ctypes.Structure):
    """struct bottleneck of native/channels.c."""

    _fields_ = fields("width padded", "first first_bias second second_bias")


class ChannelGate(ctypes.Structure):
    """struct channel_gate of native/channels.c."""

    _fields_ = [
        *fields("units units_padded inputs pixels channels_last switched", ""),
        ("score", BottleneckFields),
        ("beta", BottleneckFields),
    ]


class ChannelChoice(ctypes.Structure):
    """struct channel_choice of native/channels.c."""

    _fields_ = fields("", "thresholds k_max counts hits mask")


def channel_gate(gate: ChannelGateWeights, pixels: int, channels_last: bool) -> Any:
    key = ("native", pixels, channels_last)
    if key not in gate.cache:
        score = gate.score.padded()
        switch = score if gate.switch is None else gate.switch.padded()
        structure = ChannelGate(
            units=gate.units,
            units_padded=score[3].shape[0],
            inputs=gate.inputs,
            pixels=pixels,
            channels_last=channels_last,
            switched=gate.switch is not None,
            score=_bottleneck(gate.score.width, score),
            beta=_bottleneck((gate.switch or gate.score).width, switch),
        )
        gate.cache.setdefault(key, (structure, score, switch))  # as in conv
    return gate.cache[key][0]


def _bottleneck(width: int, tensors: tuple[Tensor, ...]) -> BottleneckFields:
    names = ("first", "first_bias", "second", "second_bias")
    pointers = {name: value.data_ptr() for name, value in zip(names, tensors, strict=True)}
    return BottleneckFields(width=width, padded=tensors[1].shape[0], **pointers)


def conv(w: ConvWeights, height: int, width: int, channels_last: bool) -> Any:
    key = ("native", height, width, channels_last)
    if key not in w.cache:
        tensors = _conv_tensors(w, height, width)
        pointers = {name: value.data_ptr() for name, value in tensors.items()}
        tail = w.tail
        kind = 0 if tail is None else 1 if tail.shortcut is None else 2
        block = Conv(
            units=w.units,
            inputs=w.inputs,
            outputs=w.outputs,
            height=height,
            width=width,
            channels_last=channels_last,
            kernel_h=w.up.shape[2],
            kernel_w=w.up.shape[3],
            stride=w.stride,
            padding=w.padding,
            down_h=w.down_t.shape[1],
            down_w=w.down_t.shape[2],
            down_padding=w.down_padding,
            activation=CODES[w.activation],
            tail=kind,
            shortcut_stride=1 if tail is None else tail.stride,
            relu=tail is not None and tail.relu,
            **pointers,
        )
        # The pointers stay valid as long as the tensors live; of several threads that come here first, one wins.
        w.cache.setdefault(key, (block, tensors))
    return w.cache[key][0]


def _conv_tensors(w: ConvWeights, height: int, width: int) -> dict[str, Tensor]:
    """What the native block points to, by the names of its fields."""
    if "packed" not in w.cache:
        packed = {"up": w.up_runs(), "down": w.down_panels(), "up_bias": w.up_bias, "mean": w.mean}
        if w.acon is not None:
            packed |= {"p1": w.acon.p1, "p2": w.acon.p2}
        if w.tail is not None and w.tail.shortcut is not None:
            packed["shortcut"] = panels(w.tail.shortcut[0].t().unsqueeze(1))
        w.cache.setdefault("packed", packed)
    fold = w.fold(*w.middle_size(height, width)).permute(1, 2, 0)
    if w.tail is not None and w.tail.shortcut is not None:
        fold = fold + w.tail.shortcut[1]
    return {**w.cache["packed"], "fold": fold.contiguous()}
