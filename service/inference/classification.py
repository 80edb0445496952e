"""Triton's classification extension: the k best classes of each row as "score:index[:label]"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def classify(scores: NDArray[Any], k: int, labels: Sequence[str]) -> NDArray[np.object_]:
    """scores: [rows, ...] numbers -> [rows, min(k, classes)] of bytes, best first; equal scores by index."""
    rows = scores.shape[0]
    flat = scores.reshape(rows, -1)
    count = min(k, flat.shape[1])
    # NaN would sort first under negation; it is the worst score there is. Unsigned numbers cannot be negated.
    comparable = np.nan_to_num(flat.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    order = np.argsort(-comparable, axis=1, kind="stable")[:, :count]
    result = np.empty((rows, count), dtype=object)
    for row in range(rows):
        for place, index in enumerate(order[row]):
            result[row, place] = _entry(flat[row, index], int(index), labels)
    return result


def _entry(score: Any, index: int, labels: Sequence[str]) -> bytes:
    number = str(int(score)) if np.issubdtype(type(score), np.integer) else f"{float(score):f}"
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()
