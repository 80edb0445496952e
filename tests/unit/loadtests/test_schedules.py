from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import schedules


@given(seed=st.integers(0, 2**32 - 1), cv2=st.sampled_from([0.25, 1.0, 8.0]))
def test_the_same_seed_gives_the_same_ascending_times(seed: int, cv2: float) -> None:
    shape = schedules.step(20.0, 80.0, 2.0, 4.0)
    times = schedules.arrivals(shape, 6.0, seed, cv2)
    assert np.array_equal(times, schedules.arrivals(shape, 6.0, seed, cv2))
    assert (np.diff(times) >= 0).all()
    assert times.size == 0 or (times[0] >= 0.0 and times[-1] < 6.0)


@pytest.mark.parametrize("cv2", [0.25, 1.0, 8.0])
def test_gaps_have_the_wanted_rate_and_burstiness(cv2: float) -> None:
    gaps = np.diff(schedules.arrivals(schedules.constant(1000.0), 60.0, 1, cv2))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.05)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.15)


@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        (schedules.step(100, 400, 2, 4), {(0, 2): 100, (2, 4): 400, (4, 6): 100}),
        (schedules.ramp(0, 600, 6), {(0, 2): 100, (2, 4): 300, (4, 6): 500}),
        (schedules.sine(0, 200, 6), {(0, 1.5): 36.3, (1.5, 4.5): 163.7}),
        (schedules.spikes(50, 500, 3, 1), {(0, 2): 50, (2, 3): 500, (5, 6): 500}),
    ],
)
def test_rates_follow_the_shape(shape: schedules.Shape, windows: dict[tuple[float, float], float]) -> None:
    times = np.concatenate([schedules.arrivals(shape, 6.0, seed) for seed in range(30)])
    for (start, end), rate in windows.items():
        measured = ((times >= start) & (times < end)).sum() / 30 / (end - start)
        assert measured == pytest.approx(rate, rel=0.1)


def test_a_trace_replays_what_was_written_faster_if_asked(tmp_path: Path) -> None:
    times = schedules.arrivals(schedules.constant(50.0), 2.0, 7)
    schedules.write_trace(times, tmp_path / "trace.jsonl")
    assert schedules.replay(tmp_path / "trace.jsonl", speed=2.0) == pytest.approx(times / 2.0, abs=1e-6)


def test_a_trace_that_goes_back_in_time_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"t": 1.0}\n{"t": 0.5}\n')
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2: .* must ascend"):
        schedules.replay(tmp_path / "bad.jsonl")


def test_empty_lines_of_a_trace_are_no_arrivals(tmp_path: Path) -> None:
    (tmp_path / "gaps.jsonl").write_text('{"t": 0.5}\n\n{"t": 1.0}\n\n')
    assert list(schedules.replay(tmp_path / "gaps.jsonl")) == [0.5, 1.0]
