"""What goes into the pipe comes out of it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models.interface import ModelOutput
from service.engine import wire
from swan_runtime.report import ComputeReport, LayerReport

DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.int8, np.uint16, np.bool_])
ARRAYS = st.dictionaries(
    st.text(max_size=8),
    DTYPES.flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))),
    max_size=2,
)
COUNT = st.integers(0, 2**62)
LAYERS = st.builds(
    LayerReport,
    name=st.text(max_size=6),
    units_active=COUNT,
    units_total=COUNT,
    macs_active=COUNT,
    macs_gate=COUNT,
    macs_dense=COUNT,
    kernel=st.text(max_size=6),
    cap_hits=st.integers(0, 9),
)
REPORTS = st.builds(
    ComputeReport,
    budget=st.floats(0.01, 1.0),
    layers=st.lists(LAYERS, max_size=2).map(tuple),
    macs_fixed=COUNT,
)


@given(ARRAYS, st.lists(REPORTS, max_size=2))
def test_an_output_survives(arrays: dict[str, np.ndarray], reports: list[ComputeReport]) -> None:
    output = ModelOutput(arrays, tuple(reports))
    back = wire.output_of(wire.loads(wire.dumps(wire.plain_output(output))))
    assert back.reports == output.reports
    assert list(back.outputs) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back.outputs[name], array)
        assert back.outputs[name].dtype == array.dtype
        assert back.outputs[name].flags.writeable


@given(st.lists(st.binary(max_size=6), min_size=1, max_size=6), st.booleans())
def test_bytes_survive(values: list[bytes], in_columns: bool) -> None:
    array = np.empty((len(values), 1) if in_columns else len(values), object)
    array.reshape(-1)[:] = values
    back = wire.arrays_of(wire.loads(wire.dumps(wire.plain_arrays({"TEXT": array}))))["TEXT"]
    assert back.shape == array.shape
    assert back.ravel().tolist() == values


def test_what_is_not_contiguous_is_sent_as_it_looks() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    back = wire.arrays_of(wire.loads(wire.dumps(wire.plain_arrays({"x": array}))))["x"]
    np.testing.assert_array_equal(back, array)
