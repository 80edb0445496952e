"""The data plane without a transport: what it runs, counts, reports and hides."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
import pytest

from service.errors import Cancelled, DeadlineExceeded, InvalidRequest, ModelFailed, NotOffered, ServiceError
from service.inference.classification import classify
from service.inference.compute import compute_parameters, server_timing
from service.inference.dataplane import Dataplane, ServerIdentity
from service.inference.executor import DirectExecutor
from service.inference.metadata import statistics_json
from service.inference.readiness import Readiness
from service.inference.repository import LiveRepository
from service.inference.statistics import Statistics
from service.types import Completion, Contract, InferRequest, LimitedBy, OutputRequest, Quality, Work
from swan_runtime.report import ComputeReport, LayerReport
from tests.support.tiny_models import SlowModel, all_models


class Log:
    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []
        self.refusals: list[BaseException] = []

    def answered(self, work: Work, completion: Completion, latency_s: float) -> None:
        self.answers.append((work.model, work.rows))

    def refused(self, model: str, version: str, error: BaseException, latency_s: float) -> None:
        self.refusals.append(error)


class Plane:
    def __init__(self) -> None:
        self.slow = SlowModel()
        self.log = Log()
        self.readiness = Readiness(True)
        self.repository = LiveRepository(all_models(self.slow))
        self.executor = DirectExecutor(self.repository.find)
        identity = ServerIdentity("triton", "2.0")
        self.dataplane = Dataplane(self.repository, self.executor, self.readiness, identity, [self.log])

    async def infer(self, model: str, inputs: dict[str, Any], datatype: str, **more: Any) -> Any:
        request = InferRequest(
            model=model,
            version="",
            id="",
            inputs=inputs,
            datatypes=dict.fromkeys(inputs, datatype),
            outputs=more.pop("outputs", ()),
            parameters={},
            contract=more.pop("contract", Contract()),
            arrival_s=more.pop("arrived_s", time.monotonic()),
        )
        return await self.dataplane.infer(request)


@pytest.fixture
async def plane() -> Any:
    made = Plane()
    await made.repository.load_all()
    yield made
    made.slow.release.release(10)
    made.executor.close()


async def test_every_fate_is_told_once(plane: Plane) -> None:
    x = np.ones((2, 3), np.int32)
    await plane.infer("identity_int32", {"x": x}, "INT32")
    with pytest.raises(InvalidRequest):
        await plane.infer("identity_int32", {"x": x}, "INT64")
    with pytest.raises(ModelFailed):
        await plane.infer("raising", {"x": x}, "INT32")
    with pytest.raises(DeadlineExceeded):
        await plane.infer("slow", {"x": x}, "INT32", contract=Contract(timeout_s=0.001))
    asking = asyncio.create_task(plane.infer("slow", {"x": x}, "INT32"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert plane.log.answers == [("identity_int32", 2)]
    assert [type(error) for error in plane.log.refusals] == [InvalidRequest, ModelFailed, DeadlineExceeded, Cancelled]
    stats = statistics_json(plane.dataplane.statistics())["model_stats"]
    by_name = {one["name"]: one for one in stats}
    assert by_name["identity_int32"]["inference_count"] == 2
    assert by_name["identity_int32"]["inference_stats"]["fail"]["count"] == 1
    assert by_name["slow"]["inference_stats"]["fail"]["count"] == 2
    assert by_name["raising"]["inference_stats"]["success"]["count"] == 0


async def test_outputs_come_in_the_models_order(plane: Plane) -> None:
    wanted = (OutputRequest("difference"), OutputRequest("sum"))
    inputs = {name: np.ones((1, 4), np.int32) for name in ("a", "b")}
    answer = await plane.infer("add_sub", inputs, "INT32", outputs=wanted)
    assert [output.name for output in answer.outputs] == ["sum", "difference"]


async def test_pinned_quality_is_what_runs(plane: Plane) -> None:
    contract = Contract(quality=Quality(0.25, 0.25))
    answer = await plane.infer("gated", {"x": np.ones((1, 8))}, "FP64", contract=contract)
    assert answer.parameters["quality_budget"] == 0.25
    assert answer.parameters["quality_limited_by"] == "request"


async def test_late_answers_say_so(plane: Plane) -> None:
    x = np.ones((1, 1), np.int32)
    in_time = await plane.infer("identity_int32", {"x": x}, "INT32")
    late = await plane.infer("identity_int32", {"x": x}, "INT32", arrived_s=time.monotonic() - 10.0)
    assert (in_time.parameters["deadline_met"], late.parameters["deadline_met"]) == (True, False)
    assert late.parameters["queue_us"] >= 10_000_000


async def test_settings_are_read_only(plane: Plane) -> None:
    dataplane = plane.dataplane
    assert dataplane.identity.name == "triton"
    assert dataplane.update_trace_settings({"trace_level": ["OFF"]})["trace_level"] == ["OFF"]
    with pytest.raises(NotOffered):
        dataplane.update_log_settings({"log_verbose_level": 3})
    with pytest.raises(InvalidRequest, match="there are: log_file"):
        dataplane.update_log_settings({"verbose": 3})
    with pytest.raises(ServiceError):
        dataplane.trace_settings("nobody")
    with pytest.raises(NotOffered, match="cannot be overridden"):
        await dataplane.load("add_sub", ["config"])


def test_shares_of_a_batch_add_up_to_one_execution() -> None:
    statistics = Statistics()
    for rows in (1, 2, 5):
        completion = Completion({}, (), 1.0, LimitedBy.NONE, None, 0.001, 0.002, 8, True)
        statistics.answered(rows, completion, 0.004)
    (one,) = statistics_json({("m", "1"): statistics})["model_stats"]
    assert (one["inference_count"], one["execution_count"]) == (8, 1)
    assert one["batch_stats"][0]["batch_size"] == 8
    assert one["batch_stats"][0]["compute_infer"] == {"count": 1, "ns": 2_000_000}
    assert one["inference_stats"]["queue"] == {"count": 3, "ns": 3_000_000}
    assert one["inference_stats"]["compute_input"]["count"] == 3


def test_cost_of_an_answer() -> None:
    layers = (LayerReport("a", 1, 4, 10, 2, 40, "k"), LayerReport("b", 2, 2, 60, 3, 60, "k"))
    report = ComputeReport(0.5, layers, macs_fixed=7)
    completion = Completion({}, (report, report), 0.5, LimitedBy.LOAD, 0.9, 0.0015, 0.25, 4, False)
    found = compute_parameters(completion)
    assert found == {
        "quality_budget": 0.5,
        "quality_activity": pytest.approx((0.25 * 40 + 60) / 100),
        "quality_limited_by": "load",
        "quality_expected": 0.9,
        "compute_macs": 2 * (7 + 10 + 2 + 60 + 3),
        "compute_macs_dense": 2 * 107,
        "queue_us": 1500,
        "compute_us": 250_000,
        "batch_size": 4,
        "deadline_met": False,
    }
    assert server_timing(found) == "queue;dur=1.500, infer;dur=250.000"


@pytest.mark.parametrize(
    ("scores", "k", "expected"),
    [
        ([[1, 3, 2]], 2, [["3:1:b", "2:2"]]),
        ([[1, 3, 2]], 99, [["3:1:b", "2:2", "1:0:a"]]),
        ([[0.5, 0.5, 0.5]], 2, [["0.500000:0:a", "0.500000:1:b"]]),
        ([[np.nan, -np.inf, 1.0]], 2, [["1.000000:2", "nan:0:a"]]),
        ([[[1, 2], [4, 3]]], 1, [["4:2"]]),
    ],
)
def test_classes(scores: Any, k: int, expected: Any) -> None:
    found = classify(np.array(scores), k, ("a", "b"))
    assert [[entry.decode() for entry in row] for row in found] == expected


def test_classes_of_unsigned_numbers() -> None:
    found = classify(np.array([[0, 255, 7]], np.uint8), 3, ())
    assert [entry.decode() for entry in found[0]] == ["255:1", "7:2", "0:0"]


async def test_readiness_wakes_its_watchers() -> None:
    readiness = Readiness()
    change = readiness.next_change
    readiness.set(False)
    assert not change.is_set()
    readiness.set(True)
    assert change.is_set() and readiness
    assert not readiness.next_change.is_set()
