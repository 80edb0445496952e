"""What a browser can send to a model: a picture or a text, told from the declared inputs alone."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from models.interface import Arrays, ModelSpec
from service.errors import InvalidRequest

MAX_TEXT_CHARS = 20_000
MAX_SIDE = 512  # a larger input is no picture to click on


@dataclass(frozen=True, slots=True)
class InputForm:
    """How the console asks for a model's input; channels, height and width are 0 except for images."""

    kind: Literal["image", "text", "none"]
    channels: int = 0
    height: int = 0
    width: int = 0

    @property
    def pixels(self) -> int:
        return self.channels * self.height * self.width


def form_of(spec: ModelSpec) -> InputForm:
    """Image: one FP32 input of 784-like (a square), [H,W], [1,H,W] or [3,H,W] values. Text: one BYTES input a row."""
    if len(spec.inputs) != 1:
        return InputForm("none")
    declared = spec.inputs[0]
    if declared.datatype == "BYTES" and declared.shape in ((), (1,)):
        return InputForm("text")
    shape = declared.shape
    if declared.datatype != "FP32" or -1 in shape:
        return InputForm("none")
    if len(shape) == 1 and math.isqrt(shape[0]) ** 2 == shape[0] > 1:
        shape = (1, math.isqrt(shape[0]), math.isqrt(shape[0]))
    elif len(shape) == 2:
        shape = (1, *shape)
    if len(shape) != 3 or shape[0] not in (1, 3) or not all(1 < side <= MAX_SIDE for side in shape[1:]):
        return InputForm("none")
    return InputForm("image", *shape)


def read_inputs(spec: ModelSpec, body: Mapping[str, Any]) -> Arrays:
    """One row of the model's input from {"pixels": base64 of uint8 [channels, height, width]} or {"text": str}.

    Pixels are scaled to 0..1. Raises InvalidRequest.
    """
    form, declared = form_of(spec), spec.inputs[0]
    if form.kind == "text":
        text = body.get("text")
        if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT_CHARS:
            raise InvalidRequest(f"text: expected a string of 1 to {MAX_TEXT_CHARS} characters")
        try:
            raw = text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("text: expected valid Unicode, got a lone surrogate") from None
        return {declared.name: np.array([raw], dtype=np.object_).reshape(1, *declared.shape)}
    if form.kind == "none":
        raise InvalidRequest(f"model {spec.name} takes neither a picture nor a text; send it tensors instead")
    pixels = _pixels(body.get("pixels"), form)
    return {declared.name: (pixels.astype(np.float32) / np.float32(255.0)).reshape(1, *declared.shape)}


def _pixels(value: Any, form: InputForm) -> np.ndarray[Any, np.dtype[np.uint8]]:
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != form.pixels:
        shape = f"{form.channels}x{form.height}x{form.width}"
        raise InvalidRequest(f"pixels: expected base64 of {form.pixels} bytes ({shape}), got {len(raw)}")
    return np.frombuffer(raw, np.uint8)


def read_budget(value: Any) -> float | None:
    """A pinned budget in (0, 1], or None for auto. Raises InvalidRequest."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise InvalidRequest('budget: expected a number in (0, 1] or null for "the load decides"')
    return float(value)
