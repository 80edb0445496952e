"""The C structures of rows.h and gate.c, filled once from packed weights, which own what the pointers point to."""

from __future__ import annotations

import ctypes
from typing import Any

from torch import Tensor

from swan_runtime.kernels.activations import CODES
from swan_runtime.kernels.magnitude_weights import InputWeights
from swan_runtime.kernels.native.structures import fields
from swan_runtime.kernels.packing import HalfMatrices
from swan_runtime.kernels.weights import GateWeights, GluWeights, LinearWeights, MlpWeights


class Block(ctypes.Structure):
    """struct block of native/rows.h."""

    _fields_ = fields(
        "units inputs outputs activation half", "up linear down down_tiled up_bias linear_bias down_bias mean"
    )


class Gate(ctypes.Structure):
    """struct gate of native/gate.c."""

    _fields_ = fields("units inputs rank rank_padded units_padded activation", "p q_t bias center norm")


def block(w: MlpWeights | GluWeights, half: bool = True) -> Any:
    """The block's structure, made once; its pointers stay valid because the weights own both. half: may be bfloat16."""
    use = w.half if half else None
    key = "native" if use is None else "native half"
    if key not in w.cache:
        glu = isinstance(w, GluWeights)
        first, first_bias = (w.gate, w.gate_bias) if isinstance(w, GluWeights) else (w.up, w.up_bias)
        matrices = HalfMatrices(first, w.up if glu else None, w.down_t, w.down_tiled) if use is None else use
        w.cache[key] = Block(
            units=w.units,
            inputs=w.inputs,
            outputs=w.outputs,
            activation=CODES[w.activation],
            half=use is not None,
            up=pointer(matrices.up),
            linear=pointer(matrices.linear),
            down=pointer(matrices.down_t),
            down_tiled=pointer(matrices.down_tiled),
            up_bias=first_bias.data_ptr(),
            linear_bias=w.up_bias.data_ptr() if glu else None,
            down_bias=w.down_bias.data_ptr(),
            mean=w.mean.data_ptr(),
        )
    return w.cache[key]


def input_block(w: InputWeights, half: bool = True) -> Any:
    use = w.half if half else None
    key = "native" if use is None else "native half"
    if key not in w.cache:
        matrices = HalfMatrices(None, None, w.down_t, w.down_tiled) if use is None else use
        w.cache[key] = Block(
            units=w.units,
            inputs=w.units,
            outputs=w.outputs,
            half=use is not None,
            down=pointer(matrices.down_t),
            down_tiled=pointer(matrices.down_tiled),
            down_bias=w.down_bias.data_ptr(),
            mean=w.mean.data_ptr(),
        )
    return w.cache[key]


def linear_block(w: LinearWeights) -> Any:
    if "native" not in w.cache:
        units, inputs = w.matrix.shape
        pointers = {"up": w.matrix.data_ptr(), "up_bias": w.bias.data_ptr()}
        w.cache["native"] = Block(units=units, inputs=inputs, **pointers)
    return w.cache["native"]


def gate(gate: GateWeights) -> Any:
    if "native" not in gate.cache:
        deviation = gate.deviation
        gate.cache["native"] = Gate(
            units=gate.units,
            inputs=gate.inputs,
            rank=gate.rank,
            rank_padded=gate.p_padded.shape[1],
            units_padded=gate.q_padded.shape[1],
            p=gate.p_padded.data_ptr(),
            q_t=gate.q_padded.data_ptr(),
            bias=gate.bias_padded.data_ptr(),
            activation=0 if deviation is None else CODES[deviation.activation],
            center=None if deviation is None else deviation.center_padded.data_ptr(),
            norm=None if deviation is None else deviation.norm_padded.data_ptr(),
        )
    return gate.cache["native"]


def pointer(value: Tensor | None) -> int | None:
    return None if value is None else value.data_ptr()
