"""Fine-tuned weights kept as int8 changes: small, exact on every machine, close to what was tuned."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.weight_changes import EXPONENTS, STEPS, changed, changes_of

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 9))
VALUES = st.floats(-4, 4, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(SHAPES.flatmap(lambda shape: arrays(np.float32, shape, elements=VALUES)), st.floats(0.001, 1))
def test_a_matrix_comes_back_within_half_a_step_of_its_row(difference: np.ndarray, size: float) -> None:
    torch.manual_seed(0)
    base = {"w": torch.randn(difference.shape)}
    tuned = {"w": base["w"] + torch.from_numpy(difference) * size}
    restored = {**base, **changed(base, changes_of(base, tuned))}
    wanted = tuned["w"] - base["w"]
    # a row's step is a power of two of at most 2/127 of its largest element
    limit = wanted.abs().amax(1, keepdim=True) / 127 + 1e-6
    assert bool(((restored["w"] - tuned["w"]).abs() <= limit).all())


def test_what_is_kept_is_small_and_comes_back_bit_by_bit() -> None:
    torch.manual_seed(1)
    base = {"up.weight": torch.randn(64, 32), "up.bias": torch.randn(64), "same": torch.randn(3, 3)}
    base["ffn.gate.center"] = torch.zeros(64)
    tuned = {
        "up.weight": base["up.weight"] + 0.01 * torch.randn(64, 32),
        "up.bias": base["up.bias"] + 0.1,
        "same": base["same"].clone(),
        "ffn.gate.project": torch.randn(4, 32),
        "ffn.gate.center": torch.zeros(64),  # gates are not the base's: they stay even where they are equal
    }
    changes = changes_of(base, tuned)
    assert set(changes) == {
        "up.weight" + STEPS,
        "up.weight" + EXPONENTS,
        "up.bias",
        "ffn.gate.project",
        "ffn.gate.center",
    }
    assert changes["up.weight" + STEPS].dtype == torch.int8 and changes["ffn.gate.project"].dtype == torch.float16
    first, second = changed(base, changes), changed({k: v.clone() for k, v in base.items()}, changes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["up.weight"].dtype == first["ffn.gate.project"].dtype == torch.float32
    torch.testing.assert_close(first["up.bias"], tuned["up.bias"], atol=0, rtol=0)
    # what was settled on once stays: a package that is written again from its own weights is the same one
    again = changes_of(base, {**tuned, **first})
    assert torch.equal(changed(base, again)["up.weight"], first["up.weight"])
