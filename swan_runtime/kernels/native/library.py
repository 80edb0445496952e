"""The loaded library: its structures and functions, typed. Every call releases the GIL (ctypes does)."""

from __future__ import annotations

import ctypes
import functools
import logging
import threading
from ctypes import POINTER, byref, c_int64, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from swan_runtime.cache import cache_directory
from swan_runtime.kernels.activations import CODES
from swan_runtime.kernels.channel_gate import ChannelGateWeights
from swan_runtime.kernels.conv_weights import ConvWeights
from swan_runtime.kernels.magnitude_weights import InputWeights
from swan_runtime.kernels.native import blocks, structures
from swan_runtime.kernels.native.blocks import Block, Gate
from swan_runtime.kernels.native.build import PACKAGED, LibraryUnavailable, build, file_name
from swan_runtime.kernels.native.structures import ChannelChoice
from swan_runtime.kernels.weights import GateWeights, GluWeights, LinearWeights, MlpWeights

log = logging.getLogger(__name__)

NOT_FINITE, NO_MEMORY, TOO_DENSE = -1, -2, -3


class Selection(NamedTuple):
    """What a native call chooses by, and where it writes its choice.

    thresholds float32 [B]; at most k_max units a row; counts int64 [B]; mask bool [B, F]. most_active: the number of
    active units, all rows together, up to which the call also runs the block.
    """

    thresholds: Tensor
    k_max: int
    counts: Tensor
    mask: Tensor
    most_active: int = 0


class SharedSelection(NamedTuple):
    """The same for requests that share a mask: a cap each, and hits int64 [R], 1 where the cap cut the mask down."""

    thresholds: Tensor
    caps: Tensor
    counts: Tensor
    hits: Tensor
    mask: Tensor


class Library:
    """Functions of one compiled file. Tensors must be contiguous, of the right dtype and shape: callers check."""

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        self._rows = _function(loaded, "swan_rows", POINTER(Block), c_void_p, c_int64, c_void_p, c_void_p, c_void_p)
        choice = c_void_p, c_int64, c_int64, c_void_p, c_void_p  # thresholds, k_max, most_active, counts, mask
        self._magnitude = _function(
            loaded,
            "swan_magnitude",
            c_void_p,
            c_int64,
            c_int64,
            c_int64,
            c_void_p,
            c_void_p,
            c_int64,
            c_void_p,
            c_void_p,
        )
        self._cats = _function(
            loaded,
            "swan_cats",
            POINTER(Block),
            c_void_p,
            c_int64,
            c_void_p,
            c_void_p,
            c_int64,
            *choice,
            c_void_p,
        )
        self._sparse = _function(
            loaded, "swan_sparse", POINTER(Block), c_void_p, c_void_p, c_int64, *choice, c_void_p, c_void_p
        )
        self._inputs = _function(loaded, "swan_inputs", POINTER(Block), c_void_p, c_int64, c_void_p, c_void_p, c_void_p)
        self._gated = _function(
            loaded, "swan_gated", POINTER(Gate), POINTER(Block), c_void_p, c_int64, *choice, c_void_p
        )
        self._scores = _function(loaded, "swan_scores", POINTER(Gate), c_void_p, c_int64, c_void_p)
        self._finish = _function(loaded, "swan_finish", POINTER(Block), c_int64, c_void_p, c_void_p, c_void_p)
        self._shared = _function(loaded, "swan_shared", POINTER(Block), c_void_p, c_void_p, c_int64, c_void_p, c_void_p)
        self._shared_gated = _function(
            loaded,
            "swan_shared_gated",
            POINTER(Gate),
            POINTER(Block),
            *[c_void_p] * 2,
            c_int64,
            *[c_void_p] * 6,
        )
        self._dense = _function(loaded, "swan_dense", POINTER(Block), c_void_p, c_int64, *[c_void_p] * 3)
        self._linear = _function(loaded, "swan_linear", POINTER(Block), c_void_p, c_int64, c_void_p)
        self._dense_inputs = _function(loaded, "swan_dense_inputs", POINTER(Block), c_void_p, c_int64, *[c_void_p] * 3)
        self._conv = _function(
            loaded, "swan_conv", POINTER(structures.Conv), c_void_p, c_int64, c_void_p, c_void_p, c_int64, c_void_p
        )

        self._channel_gate = _function(
            loaded,
            "swan_channel_gate",
            POINTER(structures.ChannelGate),
            c_void_p,
            c_int64,
            POINTER(ChannelChoice),
            c_void_p,
        )

    def rows(self, w: MlpWeights | GluWeights, x: Tensor, mask: Tensor, y: Tensor, scale: Tensor | None = None) -> None:
        """y [B, O] of x [B, D] with mask bool [B, F]; scale: None, or [B, F] that multiplies the units' values."""
        other = None if scale is None else scale.data_ptr()
        _check(self._rows(blocks.block(w), x.data_ptr(), x.shape[0], mask.data_ptr(), other, y.data_ptr()))

    def magnitude(self, values: Tensor, activation: str, weight: Tensor, s: Selection) -> int:
        """In place on values [B, F]: the activation; then the mask by |value| * weight. Cap hits or NOT_FINITE."""
        rows, units = values.shape
        first = values.data_ptr(), rows, units, CODES[activation], weight.data_ptr()
        return _check(self._magnitude(*first, s.thresholds.data_ptr(), s.k_max, s.counts.data_ptr(), s.mask.data_ptr()))

    def cats(
        self, w: MlpWeights, branch: Tensor, activation: str, weight: Tensor, x: Tensor, s: Selection, y: Tensor
    ) -> int:
        """As `magnitude` on branch [B, F], then y [B, O] of x [B, D] if the mask is thin enough. Returns as `gated`."""
        first = branch.data_ptr(), CODES[activation], weight.data_ptr(), x.data_ptr(), x.shape[0]
        return _check(self._cats(blocks.block(w), *first, *_pointers(s), y.data_ptr()))

    def sparse(self, w: InputWeights, x: Tensor, s: Selection, dropped: Tensor | None, y: Tensor) -> int:
        """Mask by |x| * weight and y [B, O] of x [B, F] in one call; dropped: as in `inputs`. Returns as `gated`."""
        first = x.data_ptr(), w.weight.data_ptr(), x.shape[0]
        return _check(self._sparse(blocks.input_block(w), *first, *_pointers(s), blocks.pointer(dropped), y.data_ptr()))

    def inputs(self, w: InputWeights, x: Tensor, mask: Tensor, dropped: Tensor | None, y: Tensor) -> None:
        """y [B, O] of x [B, F] with mask bool [B, F]; dropped [B, F] or None: x - mean where an input is off."""
        other = None if dropped is None else dropped.data_ptr()
        _check(self._inputs(blocks.input_block(w), x.data_ptr(), x.shape[0], mask.data_ptr(), other, y.data_ptr()))

    def gated(
        self, gate: GateWeights, w: MlpWeights | GluWeights | None, x: Tensor, s: Selection, y: Tensor | None
    ) -> int:
        """Gate, mask and block in one call.

        Returns cap hits; NOT_FINITE; or TOO_DENSE - cap hits: more than most_active units are active, y is not written.
        """
        block = None if w is None else blocks.block(w)
        return _check(self._gated(blocks.gate(gate), block, x.data_ptr(), x.shape[0], *_pointers(s), blocks.pointer(y)))

    def shared(self, w: MlpWeights | GluWeights, x: Tensor, offsets: Tensor, mask: Tensor, y: Tensor) -> None:
        """y [T, O] of x [T, D]; request i owns rows offsets[i]..offsets[i + 1] and mask row i of bool [R, F]."""
        pointers = x.data_ptr(), offsets.data_ptr(), mask.shape[0], mask.data_ptr(), y.data_ptr()
        _check(self._shared(blocks.block(w, half=False), *pointers))

    def shared_gated(
        self, gate: GateWeights, w: MlpWeights | GluWeights, x: Tensor, offsets: Tensor, s: SharedSelection, y: Tensor
    ) -> int:
        """As `shared`, with the masks of the gate on each request's mean row. Returns 0 or NOT_FINITE."""
        chosen = s.thresholds, s.caps, s.counts, s.hits, s.mask, y
        pointers = x.data_ptr(), offsets.data_ptr(), len(s.counts), *[value.data_ptr() for value in chosen]
        return _check(self._shared_gated(blocks.gate(gate), blocks.block(w, half=False), *pointers))

    def dense(
        self, w: MlpWeights | GluWeights, x: Tensor, mask: Tensor | None, y: Tensor, scale: Tensor | None = None
    ) -> None:
        """As `rows`, without skipping; mask None: every unit is active."""
        block = blocks.block(w, half=False)
        _check(self._dense(block, x.data_ptr(), x.shape[0], blocks.pointer(mask), blocks.pointer(scale), y.data_ptr()))

    def linear(self, w: LinearWeights, x: Tensor, y: Tensor) -> None:
        """y [B, F] of x [B, D]."""
        _check(self._linear(blocks.linear_block(w), x.data_ptr(), x.shape[0], y.data_ptr()))

    def dense_inputs(self, w: InputWeights, x: Tensor, mask: Tensor | None, dropped: Tensor | None, y: Tensor) -> None:
        """As `inputs`, without skipping; mask None: every input is active."""
        pointers = blocks.pointer(mask), blocks.pointer(dropped), y.data_ptr()
        _check(self._dense_inputs(blocks.input_block(w, half=False), x.data_ptr(), x.shape[0], *pointers))

    def scores(self, gate: GateWeights, x: Tensor, scores: Tensor) -> None:
        """scores [B, F] of x [B, D]."""
        _check(self._scores(blocks.gate(gate), x.data_ptr(), x.shape[0], scores.data_ptr()))

    def finish(self, w: MlpWeights | GluWeights, mask: Tensor | None, linear: Tensor | None, h: Tensor) -> None:
        """In place on h [B, F]: (act(h) [* linear] - mean) * mask; mask None: every unit is active."""
        self._finish(blocks.block(w), h.shape[0], blocks.pointer(mask), blocks.pointer(linear), h.data_ptr())

    def conv(self, w: ConvWeights, x: Tensor, mask: Tensor, beta: Tensor | None, y: Tensor) -> None:
        """y [B, H'', W'', O] of x with mask bool [B, K]; beta [B, K] replaces ACON's own.

        x [B, C, H, W], contiguous in that order or channels last.
        """
        own = None if w.acon is None else w.acon.beta
        used, stride = (own, 0) if beta is None else (beta, w.units)
        pointer = None if used is None else used.data_ptr()
        shape = structures.conv(w, x.shape[2], x.shape[3], not x.is_contiguous())
        _check(self._conv(shape, x.data_ptr(), x.shape[0], mask.data_ptr(), pointer, stride, y.data_ptr()))

    def channel_gate(self, gate: ChannelGateWeights, x: Tensor, choice: ChannelChoice, beta: Tensor | None) -> int:
        """Scores and mask of x [B, C, H, W] (contiguous, or channels last); beta [B, K]. Returns 0 or NOT_FINITE."""
        shape = structures.channel_gate(gate, x.shape[2] * x.shape[3], not x.is_contiguous())
        pointer = None if beta is None else beta.data_ptr()
        return _check(self._channel_gate(shape, x.data_ptr(), x.shape[0], byref(choice), pointer))


def _function(loaded: ctypes.CDLL, name: str, *arguments: Any) -> Any:
    function = getattr(loaded, name)
    function.argtypes = arguments
    function.restype = c_int64
    return function


def _check(code: int) -> int:
    if code == NO_MEMORY:
        raise MemoryError("scratch memory of the native kernels")
    return code


def _pointers(s: Selection) -> tuple[int, int, int, int, int]:
    return s.thresholds.data_ptr(), s.k_max, s.most_active, s.counts.data_ptr(), s.mask.data_ptr()


_lock = threading.Lock()


def library() -> Library | None:
    """The library for this CPU, compiled at the first call if need be (seconds); None, and why in the log, if not."""
    with _lock:
        return _load()


@functools.cache
def _load() -> Library | None:
    family = torch.backends.cpu.get_cpu_capability()
    try:
        packaged = PACKAGED / file_name(family) if family in ("AVX512", "AVX2") else None
        if packaged is not None and packaged.is_file():
            return Library(packaged)
        return Library(build(family, cache_directory() / "kernels"))
    except (LibraryUnavailable, OSError) as error:
        log.warning("native kernels are not available, Numba serves: %s", error)
        return None
