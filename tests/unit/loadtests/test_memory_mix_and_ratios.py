"""What a run records beside its answers, and what the report makes of it: memory, kinds of requests, ratios."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from loadtests import memory, report, schedules
from loadtests.answers import Answer, Outcome
from loadtests.capacity import Capacity
from loadtests.clients import Awaited, Client
from loadtests.machine import MachineNoise
from loadtests.memory import MemoryWatch
from loadtests.payloads import Sample
from loadtests.play import ADAPTIVE, FIXED, Block, Played, Yardstick
from loadtests.records import Memory, Recorder, Run, summarise
from loadtests.scenarios import MIX, SCENARIOS, Scenario, traced
from loadtests.session import Session, Variant
from loadtests.tables import over, ratios_of, tables
from loadtests.verdict import checks
from service.commands.loadtest import app

DEADLINE_S = 0.1
CAPACITY_RPS = 10.0
GREEDY = """
import sys
print("small", flush=True)
sys.stdin.readline()
held = b"x" * (64 << 20)
print("large", flush=True)
sys.stdin.readline()
"""


def test_memory_of_a_process_that_grows_is_seen_to_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_S", 0.01)
    with subprocess.Popen([sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"small\n"
        with MemoryWatch(process.pid) as watch:
            while watch.since(0.0) is None:
                pass
            process.stdin.write(b"grow\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"large\n"
        process.stdin.close()
    seen = watch.since(0.0)
    assert seen is not None
    assert 60.0 < seen.peak - seen.first < 70.0
    assert seen.mib[-1] == seen.peak
    assert (np.diff(seen.at) > 0.0).all()


def test_a_process_that_is_not_there_has_no_memory() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with MemoryWatch(process.pid) as watch:
        pass
    assert watch.since(0.0) is None


@given(level=st.floats(10.0, 1e4), slope=st.floats(0.0, 1.0), size=st.integers(8, 200), filling=st.floats(0.0, 1e3))
def test_growth_is_of_the_last_quarter_over_the_second_and_filling_up_is_none(
    level: float, slope: float, size: int, filling: float
) -> None:
    steps = np.arange(size)
    mib = level * (1.0 + slope * steps / size)
    mib[: size // 4] = filling
    growth = Memory(steps.astype(float), mib).growth
    assert growth == pytest.approx(slope * 0.5 / (1.0 + 0.375 * slope), abs=slope * 3.0 / size + 1e-9)


class AllAlike(Awaited):
    """Answers everything at once, with the request's number as its budget."""

    async def send(self, index: int) -> Answer:
        return Answer(Outcome.OK, {"quality_budget": float(index)})

    async def close(self) -> None: ...


async def test_each_request_is_of_the_kind_that_was_asked_for() -> None:
    asked: list[tuple[Variant, ...]] = []

    def connect(variants: tuple[Variant, ...]) -> Client:
        asked.append(variants)
        return AllAlike()

    samples = [Sample(np.zeros(1, np.float32), 0)] * 5
    kinds = tuple(Variant(kind.patience * DEADLINE_S, kind.asks) for kind in MIX)
    run = await Session(samples, connect).run(np.linspace(0.0, 0.01, 400), kinds, seed=3)
    assert run.variant is not None and run.memory is None
    assert asked == [kinds]
    assert (run.numbers["quality_budget"] // len(samples) == run.variant).all()
    assert (run.deadline == np.array([kind.deadline_s for kind in kinds])[run.variant]).all()
    assert np.bincount(run.variant, minlength=len(kinds)).min() > 60
    part = run.only(run.variant == 1)
    assert part.intended.size == (run.variant == 1).sum() and (part.deadline == 4.0 * DEADLINE_S).all()


def test_the_mix_asks_for_a_deadline_a_priority_and_a_floor() -> None:
    assert {kind.patience for kind in MIX} == {1.0, 4.0}
    assert {name for kind in MIX for name in kind.asks} == {"priority", "quality_min"}


def run_at(rate: float, on_time: float, seconds: float = 12.0, score: float = 1.0) -> Run:
    """Every request answered; the first `on_time` of each ten in time."""
    times = np.arange(0.0, seconds, 1.0 / rate)
    recorder = Recorder(times, np.full(times.size, DEADLINE_S))
    for index, at in enumerate(times):
        recorder.sent[index] = at
        late = index % 10 >= 10.0 * on_time
        recorder.record(index, at + (1.0 if late else 0.01), Answer(Outcome.OK, {"quality_budget": 0.5}), score)
    return recorder.finish()


def played(scenario: Scenario, *blocks: tuple[str, int, Run]) -> Played:
    yardstick = Yardstick(DEADLINE_S, 1.0, Capacity(CAPACITY_RPS, 12.0, ()))
    made = tuple(Block(policy, seed, run, summarise(run, end=12.0)) for policy, seed, run in blocks)
    return Played(scenario, "m", "http", yardstick, made, ())


def test_ratios_are_of_the_same_seconds_of_the_same_schedule() -> None:
    result = played(
        SCENARIOS["spike"],
        (ADAPTIVE, 1, run_at(50.0, 1.0, score=0.9)),
        (FIXED, 2, run_at(100.0, 0.1)),
        (FIXED, 1, run_at(50.0, 0.5)),
        (ADAPTIVE, 2, run_at(100.0, 0.2, score=0.9)),
    )
    ratios = ratios_of(result)
    assert ratios["goodput"].low == pytest.approx(2.0) == ratios["goodput"].high
    assert ratios["effective accuracy"].estimate == pytest.approx(1.8)
    assert any(table.rows[0] == ("goodput", "2 [2, 2]") for table in tables(result))
    assert ratios_of(played(SCENARIOS["smoke"], (ADAPTIVE, 1, run_at(50.0, 1.0)))) == {}


def test_on_time_while_over_capacity_leaves_the_quiet_seconds_out() -> None:
    run = run_at(50.0, 1.0)
    late = run.intended < 3.0  # the step begins after a quarter: before it nothing is over the capacity
    spoilt = replace(run, done=np.where(late, run.done + 1.0, run.done))
    result = played(SCENARIOS["step"], (ADAPTIVE, 1, spoilt))
    assert spoilt.on_time.mean() == pytest.approx(0.75, abs=0.01)
    assert over(result, ADAPTIVE) == 1.0
    assert np.isnan(over(result, FIXED))


def test_overload_and_soak_are_not_passed_without_memory_nor_with_one_that_grows() -> None:
    for name in ("overload", "soak"):
        run = run_at(50.0, 1.0)
        at = np.arange(12.0)
        grown = replace(run, memory=Memory(at, 1000.0 + 10.0 * at))
        flat = replace(run, memory=Memory(at, np.full(12, 1000.0)))
        got = [checks(played(SCENARIOS[name], (ADAPTIVE, 1, one)))[-1] for one in (run, grown, flat)]
        assert [check.passed for check in got] == [False, False, True]
        assert "not measured" in got[0].got and got[1].got == "+5.8%"


def test_the_report_holds_memory_kinds_ratios_and_a_trace_that_can_be_played_again(tmp_path: Path) -> None:
    at = np.arange(12.0)
    mixed = [
        replace(run_at(50.0, share), memory=Memory(at, 1000.0 + at), variant=np.arange(600) % len(MIX))
        for share in (1.0, 0.5)
    ]
    result = played(SCENARIOS["mixed-deadlines"], (ADAPTIVE, 1, mixed[0]), (FIXED, 1, mixed[1]))
    page = report.write(result, tmp_path, "swan loadtest mixed-deadlines")
    record = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["blocks"][0]["memory"]["peak_mib"] == 1011.0
    assert record["ratios"]["goodput"]["estimate"] == pytest.approx(2.0)
    assert record["on_time_while_over_capacity"] == {ADAPTIVE: 1.0, FIXED: 0.5}
    text = page.read_text(encoding="utf-8")
    assert "<td>patient</td><td>150</td><td>100.00%</td>" in text
    assert "<td>memory at most, MiB</td><td>1011</td><td>1011</td>" in text
    again = traced(schedules.replay(page.with_suffix(".trace.jsonl")), "x")
    assert again.load.times(CAPACITY_RPS, 1) == pytest.approx(mixed[0].intended, abs=1e-6)
    assert (again.load.rate(CAPACITY_RPS, np.array([0.5, 11.5])) == 50.0).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "there are smoke, step, spike"),
        (["trace"], "needs --trace FILE"),
        (["smoke", "--trace", "{file}"], "only `trace` takes it"),
        (["trace", "--trace", "{file}"], "line 2: expected"),
        (["trace", "--trace", "{empty}"], "holds no arrivals"),
        (["soak", "--url", "http://127.0.0.1:9"], "no service answers"),
    ],
)
def test_what_cannot_be_played_is_said_before_anything_is_started(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "bad.jsonl").write_text('{"t": 0.5}\nhello\n', encoding="utf-8")
    (tmp_path / "empty.jsonl").touch()
    names = {"file": str(tmp_path / "bad.jsonl"), "empty": str(tmp_path / "empty.jsonl")}
    result = CliRunner().invoke(app, [part.format(**names) for part in arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


@dataclass(frozen=True)
class Times:
    user: float
    idle: float
    steal: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.user, self.idle, self.steal))


def test_what_the_hypervisor_takes_during_a_test_makes_a_run_noisy_and_what_it_took_before_does_not() -> None:
    times = iter([Times(0, 0, 50), Times(80, 16, 54), Times(170, 22, 58), Times(260, 22, 68)])
    machine = MachineNoise(lambda: next(times), lambda: 0.001)
    machine.look()
    assert machine.reasons(DEADLINE_S) == []
    machine.look()
    assert machine.stolen == pytest.approx(0.04) and machine.reasons(DEADLINE_S) == []
    machine.look()
    (reason,) = machine.reasons(DEADLINE_S)
    assert "10%" in reason
    assert "1.0 ms late" in machine.reasons(0.004)[0]
