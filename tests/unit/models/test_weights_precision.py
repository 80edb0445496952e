"""Gated weights in bfloat16: answers stay close, and what was measured on float32 is not taken for them."""

from __future__ import annotations

import numpy as np
import pytest

from models.interface import Repacks
from models.registry import find_package, load_package, shipped_repository
from swan_runtime.errors import InvalidInputError

NAME = "fashion-mlp"


def test_a_package_can_serve_rounded_weights() -> None:
    path = find_package(shipped_repository(), NAME)
    plain, rounded = load_package(path), load_package(path, "bfloat16")
    assert plain.fingerprint != rounded.fingerprint
    inputs, budgets = plain.example(4), np.full(4, 0.3)
    expected, got = (model.infer(inputs, budgets).outputs for model in (plain, rounded))
    same = True
    for name, value in expected.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(got[name], value, rtol=0.1, atol=0.1)
            same = same and bool(np.array_equal(got[name], value))
    assert not same


def test_an_unknown_precision_is_refused() -> None:
    model = load_package(find_package(shipped_repository(), NAME))
    assert isinstance(model, Repacks)
    with pytest.raises(InvalidInputError, match="weights"):
        model.repack("float16")
