"""The choice is a pure function of a cost table; tables are measured, kept in a file, and ignored when malformed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swan_runtime.kernels import ConvWeights, MlpWeights, dispatch
from swan_runtime.kernels.costs import MARGIN, CostTable

TABLE = CostTable(
    rows=(1, 64),
    densities=(0.0, 1.0),
    seconds={"dense": ((1.0, 1.0), (10.0, 10.0)), "native": ((0.0001, 1.0), (0.0001, 20.0))},
)


def test_prediction_is_linear_between_points_and_proportional_beyond_the_last() -> None:
    assert TABLE.predict("native", 1, 0.5) == pytest.approx(0.5, rel=1e-3)
    assert TABLE.predict("dense", 64, 0.3) == 10.0
    assert TABLE.predict("dense", 128, 0.3) == 20.0
    assert 1.0 < TABLE.predict("dense", 20, 0.3) < 10.0


@given(rows=st.integers(1, 200), density=st.floats(0, 1))
def test_the_choice_is_never_predicted_slower_than_dense_and_skips_exactly_below_break_even(
    rows: int, density: float
) -> None:
    chosen = TABLE.choose(rows, density)
    dense = TABLE.predict("dense", rows, density)
    assert TABLE.predict(chosen, rows, density) <= dense
    even = TABLE.break_even(rows)
    if abs(density - even) > 0.01:
        assert (chosen == "native") == (density < even)
    if chosen == "dense":
        assert TABLE.predict("native", rows, density) >= dense * MARGIN


def test_break_even_ends() -> None:
    slow = CostTable((1,), (0.0, 1.0), {"dense": ((1.0, 1.0),), "native": ((2.0, 3.0),)})
    fast = CostTable((1,), (0.0, 1.0), {"dense": ((1.0, 1.0),), "native": ((0.1, 0.2),)})
    assert (slow.break_even(1), fast.break_even(1)) == (0.0, 1.0)


def test_table_survives_json() -> None:
    assert CostTable.from_json(TABLE.to_json()) == TABLE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"rows": [1], "densities": [1], "seconds": {"native": [[1]]}}',
        '{"rows": [1, 2], "densities": [1], "seconds": {"dense": [[1]]}}',
        '{"rows": [1], "densities": [1], "seconds": {"dense": [[-1]]}}',
    ],
)
def test_a_malformed_cost_file_is_measured_anew(text: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    assert dispatch._read(path) is None


def test_measured_tables_are_kept_and_found_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights = [
        MlpWeights.pack(torch.randn(33, 17), None, torch.randn(5, 33), None, activation="relu") for _ in range(2)
    ]
    first = dispatch.table(weights[0], dispatch.OWN)
    files = list((tmp_path / "swan-serve" / "costs").glob("*.json"))
    assert len(files) == 1
    assert CostTable.from_json(files[0].read_text(encoding="utf-8")) == first
    dispatch._tables.clear()
    assert dispatch.table(weights[1], dispatch.OWN) == first


def test_explain_gives_milliseconds_or_a_reason_for_every_kernel() -> None:
    w = MlpWeights.pack(torch.randn(40, 16), None, torch.randn(8, 40), None, activation="relu")
    choice = dispatch.explain(w, rows=4, density=0.2)
    assert {candidate.kernel for candidate in choice.candidates} == set(dispatch.OWN.kernels)
    for candidate in choice.candidates:
        assert candidate.reason
        assert (candidate.predicted_ms is None) == bool(dispatch.candidates(dispatch.OWN)[candidate.kernel])
    fastest = min((c for c in choice.candidates if c.predicted_ms is not None), key=lambda c: c.predicted_ms or 0)
    chosen = next(c for c in choice.candidates if c.kernel == choice.kernel)
    assert (chosen.predicted_ms or 0) * MARGIN <= (fastest.predicted_ms or 0)


def test_conv_costs_depend_on_the_map_size() -> None:
    w = ConvWeights.pack((torch.randn(4, 2, 3, 3), None), (torch.randn(2, 4, 3, 3), None), activation="relu")
    small, large = (dispatch.table(w, dispatch.CONV, size=(side, side)) for side in (4, 40))
    assert small.predict("dense", 16, 1.0) < large.predict("dense", 16, 1.0)


@given(share=st.floats(0, 1), rows=st.sampled_from([1, 7, 64]))
def test_a_remembered_choice_is_the_tables_choice_at_the_next_step_of_density(share: float, rows: int) -> None:
    w = MlpWeights.pack(torch.zeros(12, 4), None, torch.zeros(3, 12), None, activation="relu")
    w.cache[("costs", "own", 1, (0, 0))] = TABLE
    expected = TABLE.choose(rows, -(-share * 64 // 1) / 64)
    assert dispatch.choose(w, dispatch.OWN, rows, share) == expected
    assert dispatch.choose(w, dispatch.OWN, rows, share) == expected
