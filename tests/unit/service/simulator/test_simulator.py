"""The simulator: reproducible, conserving, bounded by the clairvoyant, and it shows what the law is for."""

import dataclasses
import json
import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from service.commands.simulate import app
from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.control.profile import ServiceProfile
from service.control.types import ModelPlan
from service.simulator.clairvoyant import clairvoyant, taut_string
from service.simulator.plant import Noise, Plant, reference_plant, table_plant
from service.simulator.report import POLICIES, Scenario, Summary, record_of, scenario_for, simulate_all, summarise
from service.simulator.shapes import SHAPES, Scale, constant, make_workload
from service.simulator.targets import judge
from service.simulator.workload import Slowdowns, equal_deadlines, mixed_deadlines
from swan_runtime.budget import BudgetPoint, CalibrationTable

PLANT = reference_plant()
SHORT = scenario_for(PLANT, duration_s=3.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_seeded_ordered_and_of_the_promised_load(shape):
    scale = Scale(100.0, 680.0)
    traffic = equal_deadlines("reference", 0.05)
    first, again, other = (make_workload(shape, SHAPES[shape], scale, traffic, seed, 20.0) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    times = [request.arrival_s for request in first.requests]
    assert times == sorted(times)
    assert 0.0 <= times[0] <= times[-1] <= 20.0
    assert 0.5 <= len(times) / (20.0 * 100.0) <= 2.0


def test_bursts_are_bursty():
    workload = make_workload("bursts", SHAPES["bursts"], Scale(100.0, 680.0), equal_deadlines("m", 0.05), 3, 200.0)
    gaps = np.diff([request.arrival_s for request in workload.requests])
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(8.0, rel=0.15)


def test_multiples_are_compressed_for_a_model_whose_floor_gives_little():
    scale = Scale(100.0, 250.0)
    assert scale.rate(0.6) == 60.0
    assert scale.rate(4.5) == pytest.approx(0.85 * 250.0)
    assert scale.rate(2.0) < 200.0
    assert Scale(100.0, 680.0).rate(4.5) == pytest.approx(450.0)


def test_a_models_load_is_measured_in_full_batches():
    grid = [[0.002, 0.003], [0.008, 0.016]]
    plan = ModelPlan("m", ServiceProfile((0.25, 1.0), (1, 16), grid), 0.05, 16, 0.25)
    alone = scenario_for(Plant(plan, lambda budget: budget))
    batched = dataclasses.replace(alone, in_batches=True)
    assert alone.scale.full == pytest.approx(1 / 0.003)
    assert (batched.scale.full, batched.scale.floor) == pytest.approx((1000.0, 2000.0))
    assert batched.scale.rate(4.5) == pytest.approx(0.85 * 2000.0)


def test_slowdowns_hold_from_their_start():
    slow = Slowdowns((0.0, 5.0, 7.0), (1.0, 1.8, 1.0))
    assert [slow.at(t) for t in (0.0, 4.9, 5.0, 6.9, 7.0)] == [1.0, 1.0, 1.8, 1.8, 1.0]


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_of_a_run_ends_exactly_once_and_a_run_repeats(policy):
    workload = SHORT.workload("step", 3)
    runs = [SHORT.simulate(POLICIES[policy](PLANT.plan), workload, 3) for _ in range(2)]
    assert len(runs[0].served) + len(runs[0].refused) == len(workload.requests)
    assert runs[0].served == runs[1].served
    assert all(answer.finish_s > answer.arrival_s for answer in runs[0].served)
    assert all(0.1 <= answer.budget <= 1.0 for answer in runs[0].served)


def test_mixed_traffic_keeps_pinned_requests_at_full_budget():
    traffic = mixed_deadlines("reference", 0.05)
    scenario = Scenario(PLANT, traffic, duration_s=4.0)
    run = scenario.simulate(DrainFeasible([PLANT.plan]), scenario.workload("step", 2), 2)
    pinned = [answer for answer in run.served if answer.pinned]
    assert pinned
    assert {answer.budget for answer in pinned} == {1.0}
    record = record_of(run, "law", 2, scenario)
    assert record.attainment > 0.995
    rival = record_of(scenario.simulate(POLICIES["slackfit-30"](PLANT.plan), run.workload, 2), "rival", 2, scenario)
    assert record.normalised_accuracy > 1.2 * rival.normalised_accuracy


def test_the_law_beats_what_it_is_compared_with_on_a_step():
    names = ["drain-feasible", "full", "floor", "slackfit-0", "dimmer", "best-static", "clairvoyant"]
    scenario = scenario_for(PLANT, duration_s=6.0)
    records = {record.policy: record for record, _ in simulate_all(scenario, names, ["step"], [100])}
    law = records["drain-feasible"]
    assert law.attainment >= 0.999
    assert records["full"].attainment < 0.6
    assert records["floor"].effective_accuracy < law.effective_accuracy - 0.04
    for rival in ("slackfit-0", "dimmer", "best-static"):
        assert records[rival].effective_accuracy < law.effective_accuracy - 0.005, rival
    assert records["clairvoyant"].effective_accuracy >= law.effective_accuracy
    summaries = {summary.policy: summary for summary in summarise(list(records.values()))}
    assert summaries["drain-feasible"].regret < 0.1 < summaries["dimmer"].regret


def test_at_light_load_the_law_gives_full_quality():
    scenario = scenario_for(PLANT, duration_s=6.0)
    run = scenario.simulate(DrainFeasible([PLANT.plan]), scenario.workload("spike", 4), 4)
    calm = [answer.budget for answer in run.served if answer.arrival_s < 0.7]
    assert np.mean(calm) > 0.85


INTERVALS = st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.2, 1.0)), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(INTERVALS)
def test_the_taut_string_fits_between_releases_and_deadlines_and_no_pair_can_be_evened_out(intervals):
    releases = sorted(release for release, _ in intervals)
    deadlines = sorted(release + 1.0 for release in releases)
    times = taut_string(releases, deadlines)
    assert len(times) == len(releases)
    at, ends = 0.0, []
    for release, deadline, seconds in zip(releases, deadlines, times, strict=True):
        at = max(at, release) + seconds
        ends.append(at)
        assert seconds >= -1e-9
        assert at <= deadline + 1e-6
    for i in range(len(times) - 1):
        if times[i] > times[i + 1] + 1e-6:  # the earlier one is longer: only because the next cannot start earlier
            assert ends[i] <= releases[i + 1] + 1e-6
        if times[i] < times[i + 1] - 1e-6:  # the earlier one is shorter: only because its deadline is reached
            assert ends[i] >= deadlines[i] - 1e-6


def test_the_clairvoyant_knows_the_slowdown():
    workload = SHORT.workload("slowdown", 1)
    steady = Scenario(PLANT, SHORT.traffic, duration_s=3.0).workload("slowdown", 1)
    fast = dataclasses.replace(steady, slowdowns=Slowdowns())
    assert clairvoyant(PLANT, workload).quality < clairvoyant(PLANT, fast).quality


def test_the_clairvoyant_serves_what_the_floor_can_and_no_more():
    scenario = scenario_for(PLANT, duration_s=4.0)
    twice = constant(2.0 * scenario.scale.floor / scenario.scale.full)
    workload = scenario.workload("constant", 1, twice)
    bound = clairvoyant(PLANT, workload)
    law = record_of(scenario.simulate(DrainFeasible([PLANT.plan]), workload, 1), "law", 1, scenario)
    assert law.attainment <= bound.attainment == pytest.approx(0.5, rel=0.1)
    assert law.effective_accuracy <= bound.quality == pytest.approx(bound.attainment * PLANT.quality_floor, rel=0.01)


@pytest.mark.parametrize("multiple", [1.5, 2.0, 3.0])
def test_overload_fills_batches_that_take_much_of_a_deadline(multiple):
    profile = ServiceProfile.affine(0.0066, 0.0085, 0.0056, (0.2, 1.0), 8)
    plan = ModelPlan("slow", profile, default_deadline_s=0.25, max_batch=8, min_budget=0.2)
    plant = Plant(plan, lambda budget: 0.85 + 0.04 * budget)
    scenario = Scenario(plant, equal_deadlines("slow", 0.25), duration_s=12.0, in_batches=True)
    workload = scenario.workload("constant", 5, constant(multiple * scenario.scale.floor / scenario.scale.full))
    record = record_of(scenario.simulate(DrainFeasible([plan]), workload, 5), "law", 5, scenario)
    assert record.goodput_ratio >= 0.95
    assert record.late_ratio <= 0.01
    assert record.refusal_ratio <= 0.2


def test_a_plant_takes_its_profiles_time_for_average_inputs_and_more_for_dense_ones():
    quiet = Plant(PLANT.plan, PLANT.quality, noise=Noise(0.0, 0.0, 0.0))
    even = quiet.seconds([0.5, 0.5], [1.0, 1.0], 1.0, Random(0))
    assert even == pytest.approx(PLANT.profile.seconds(0.5, 2))
    assert quiet.seconds([0.5, 0.5], [2.0, 2.0], 1.0, Random(0)) > even
    assert quiet.seconds([0.5, 0.5], [1.0, 1.0], 1.8, Random(0)) == pytest.approx(1.8 * even)
    stall = Plant(PLANT.plan, PLANT.quality, noise=Noise(0.0, 1.0, 0.5))
    assert stall.seconds([0.5], [1.0], 1.0, Random(0)) > 0.5


def test_a_calibrated_model_brings_its_own_quality_and_spread():
    points = tuple(BudgetPoint(b, {"l": 1 - b}, b, b, 1.3 * b, 1e6 * b, 1.3e6 * b, 0.8 + 0.1 * b) for b in (0.25, 1.0))
    table = CalibrationTable("m", "f" * 64, "accuracy", 1000, 1e6, points)
    plan = ModelPlan("m", ServiceProfile((0.25, 1.0), (1,), [[0.002, 0.005]]), 0.05, 1, 0.25)
    plant = table_plant(plan, table)
    assert plant.quality(0.25) == pytest.approx(0.825)
    assert plant.quality_full == pytest.approx(0.9)
    assert math.exp(2.326 * plant.intensity_sigma - plant.intensity_sigma**2 / 2) == pytest.approx(1.3, rel=1e-3)


def test_the_command_prints_writes_and_draws(tmp_path):
    json_file, plots = tmp_path / "records.json", tmp_path / "plots"
    arguments = ["--policy", "drain-feasible", "--policy", "full", "--shape", "step", "--duration", "2", "--mixed"]
    result = CliRunner().invoke(app, [*arguments, "--json", str(json_file), "--plot", str(plots)])
    assert result.exit_code == 0, result.output
    assert "drain-feasible" in result.output
    records = json.loads(json_file.read_text())
    wanted = (
        "policy shape seed attainment effective_accuracy accuracy_floor accuracy_full goodput_ratio late_ratio p99_s"
    )
    assert all(set(wanted.split()) <= set(record) for record in records)
    assert {record["policy"] for record in records} == {"drain-feasible", "full"}
    assert (plots / "step.png").read_bytes().startswith(b"\x89PNG")


def test_targets_are_judged_by_the_best_of_each_kind_of_rival():
    def summary(policy, misses, nea, regret=None):
        return Summary(policy, 1 - misses, 1 - 2 * misses, 0.7, nea, misses, 0.0, 0.04, 0.0, 0.1, regret)

    law = summary("drain-feasible", 0.0004, 0.7, 0.08)
    rivals = [summary("slackfit-0", 0.02, 0.5), summary("slackfit-30", 0.001, 0.6), summary("dimmer-tuned", 0.01, 0.2)]
    judged = {target.name: target for target in judge([law, *rivals])}
    assert judged["misses / fewest of a SlackFit"].value == pytest.approx(0.4)
    assert judged["misses / fewest of a SlackFit"].met
    assert not judged["NEA / best of a SlackFit"].met  # 0.7 / 0.6
    assert judged["NEA / best of a dimmer"].met
    assert not judged["regret to the clairvoyant bound"].met
    assert judged["attainment, worst run"].met
    assert list(judge(rivals)) == []


def test_the_command_judges_overload(tmp_path):
    arguments = ["--policy", "drain-feasible", "--shape", "step", "--duration", "2", "--targets"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    verdicts = [line for line in result.output.splitlines() if line.startswith(("pass ", "MISS "))]
    assert len(verdicts) == 2 + 9
    assert [line[:4] for line in verdicts if "goodput" in line] == ["pass"] * 3


def test_the_command_names_what_is_allowed():
    result = CliRunner().invoke(app, ["--shape", "zigzag"])
    assert result.exit_code == 2
    assert "bursts" in result.output
    assert CliRunner().invoke(app, ["--policy", "magic"]).exit_code == 2


def test_fixed_at_the_floor_never_misses_what_the_floor_can_serve():
    run = SHORT.simulate(Fixed([PLANT.plan], 0.1), SHORT.workload("ramp", 1), 1)
    assert record_of(run, "floor", 1, SHORT).attainment >= 0.999
