"""Profiles: what is measured, when it is measured again, and how long it may take."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput
from service.scheduling.profiler import Effort, batch_sizes, measure, profile_key, profile_model, user_cache
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import ManualClock


class Timed(GatedNumpy):
    """The small model on a clock of its own: a batch takes exactly t0 + rows * (a + b * budget)."""

    def __init__(self, clock: ManualClock, t0: float = 0.001, per_row: float = 0.001, slope: float = 0.01) -> None:
        super().__init__(max_batch=8)
        self.clock = clock
        self.times = (t0, per_row, slope)
        self.calls: list[int] = []

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        t0, per_row, slope = self.times
        self.calls.append(len(budgets))
        self.clock.now_s += t0 + sum(per_row + slope * budget for budget in budgets)
        return super().infer(inputs, budgets)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_the_profile_is_what_the_model_takes(clock: ManualClock, tmp_path: Path) -> None:
    profile = profile_model(Timed(clock), 1, tmp_path, Effort(2.0, clock))
    assert profile.source == "measured"
    assert profile.fit.adaptive
    for rows in range(1, 9):
        for budget in (0.25, 0.4, 1.0):
            expected = 0.001 + rows * (0.001 + 0.01 * budget)
            assert profile.fit.profile.seconds(budget, rows) == pytest.approx(expected, rel=1e-6)


def test_a_profile_is_measured_once_and_again_when_something_changed(clock: ManualClock, tmp_path: Path) -> None:
    model = Timed(clock)
    first = profile_model(model, 1, tmp_path, Effort(0.5, clock))
    calls = len(model.calls)
    again = profile_model(model, 1, tmp_path, Effort(0.5, clock))
    assert again.source == "cached"
    assert len(model.calls) == calls
    assert again.fit.profile.grid == first.fit.profile.grid
    assert profile_model(model, 2, tmp_path, Effort(0.5, clock)).source == "measured"
    model.fingerprint = "retrained"
    assert profile_model(model, 1, tmp_path, Effort(0.5, clock)).source == "measured"


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"key": "other", "samples": []}', '{"samples": 3}', '{"key": "KEY", "samples": [[1]]}']
)
def test_a_damaged_cache_is_measured_anew(clock: ManualClock, tmp_path: Path, damage: str) -> None:
    model = Timed(clock)
    key = profile_key(model, 1)
    (tmp_path / f"{key}.json").write_text(damage.replace("KEY", key))
    assert profile_model(model, 1, tmp_path, Effort(0.5, clock)).source == "measured"
    assert json.loads((tmp_path / f"{key}.json").read_text())["key"] == key


def test_a_cache_that_cannot_be_written_is_no_error(clock: ManualClock, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert profile_model(Timed(clock), 1, tmp_path / "file", Effort(0.5, clock)).source == "measured"


@pytest.mark.parametrize("slowness", [0.01, 1.0, 10.0, 100.0])
def test_measuring_takes_about_the_time_it_was_given_however_slow_the_model(
    clock: ManualClock, slowness: float
) -> None:
    model = Timed(clock, 0.001 * slowness, 0.001 * slowness, 0.01 * slowness)
    began = clock.now_s
    samples = measure(model, Effort(2.0, clock))
    one = 0.012 * slowness
    assert clock.now_s - began <= 2.0 + max(1.5, 12 * one)
    assert {1} <= {sample.rows for sample in samples}
    assert {0.25, 1.0} <= {sample.budget for sample in samples}


def test_progress_rises_to_one(clock: ManualClock) -> None:
    seen: list[float] = []
    measure(Timed(clock), Effort(0.5, clock), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_a_model_without_gates_has_one_budget(clock: ManualClock, tmp_path: Path) -> None:
    model = Timed(clock)
    model.table = None
    profile = profile_model(model, 1, tmp_path, Effort(0.5, clock))
    assert profile.fit.profile.budgets == (1.0,)
    assert profile.fit.profile.seconds(1.0, 4) == pytest.approx(0.001 + 4 * 0.011)


def test_batch_sizes_hold_the_maximum() -> None:
    assert batch_sizes(8) == (1, 2, 4, 8)
    assert batch_sizes(6) == (1, 2, 4, 6)
    assert batch_sizes(0) == batch_sizes(1) == (1,)


def test_the_users_cache_follows_the_desktop_standard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "swan-serve" / "profiles"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache().parts[-3:] == (".cache", "swan-serve", "profiles")
