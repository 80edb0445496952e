"""The scheduler behind the real HTTP and gRPC server, with real threads and a real, if small, model."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
from prometheus_client.parser import text_string_to_metric_families

from service.scheduling.worker import ThreadWorkers
from service.types import Contract, DeadlinePolicy, LimitedBy, Quality, Work
from tests.support.gated_numpy import GatedNumpy
from tests.support.scheduled_server import ScheduledServer, scheduled_server

CONTRACTS: list[dict[str, Any]] = [
    {},
    {"quality": "full"},
    {"quality": 0.5},
    {"quality_max": 0.3},
    {"quality_min": 0.6, "priority": 1},
    {"priority": 3, "deadline_policy": "best_effort"},
]


def inputs(seed: int, rows: int, features: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, (rows, features)).astype(np.float64)


async def ask_http(client: httpx.AsyncClient, x: np.ndarray, parameters: dict[str, Any]) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": "FP64", "shape": list(x.shape), "data": x.tolist()}
    answer = await client.post("/v2/models/gated/infer", json={"inputs": [tensor], "parameters": parameters})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["parameters"] | {"y": body["outputs"][0]["data"]}


async def ask_grpc(
    client: triton_grpc.InferenceServerClient, x: np.ndarray, parameters: dict[str, Any]
) -> dict[str, Any]:
    tensor = triton_grpc.InferInput("x", list(x.shape), "FP64")
    tensor.set_data_from_numpy(x)
    custom = {name: value for name, value in parameters.items() if name != "priority"}
    result = await client.infer("gated", [tensor], priority=parameters.get("priority", 0), parameters=custom)
    said = result.get_response().parameters
    values = {name: getattr(said[name], said[name].WhichOneof("parameter_choice")) for name in said}
    return values | {"y": result.as_numpy("y").ravel().tolist()}


async def scrape(client: httpx.AsyncClient) -> dict[str, float]:
    """Sum of each metric over its labels."""
    text = (await client.get("/metrics")).text
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


async def ask_many(server: ScheduledServer) -> tuple[list[dict[str, Any]], dict[str, float]]:
    address = server.address
    async with (
        httpx.AsyncClient(base_url=f"http://{address.host}:{address.http_port}", timeout=60.0) as http,
        triton_grpc.InferenceServerClient(f"{address.host}:{address.grpc_port}") as grpc,
    ):
        calls = []
        for i in range(48):
            x, parameters = inputs(i, 1 + i % 3), CONTRACTS[i % len(CONTRACTS)]
            calls.append(ask_grpc(grpc, x, parameters) if i % 2 else ask_http(http, x, parameters))
        answers = await asyncio.gather(*calls)
        return answers, await scrape(http)


def test_metrics_are_exactly_the_sum_of_what_the_answers_say() -> None:
    model = GatedNumpy(deadline_s=60.0)

    async def scenario() -> tuple[list[dict[str, Any]], dict[str, float]]:
        async with scheduled_server(model, ThreadWorkers(2)) as server:
            return await ask_many(server)

    answers, totals = asyncio.run(scenario())
    for name, key in (
        ("swan_compute_macs_total", "compute_macs"),
        ("swan_dense_equivalent_macs_total", "compute_macs_dense"),
        ("swan_request_compute_macs_sum", "compute_macs"),
    ):
        assert totals[name] == sum(int(answer[key]) for answer in answers)
    assert totals["swan_requests_total"] == len(answers)
    assert totals["swan_slo_attained_total"] == sum(bool(answer["deadline_met"]) for answer in answers)
    assert totals["swan_rows_total"] == sum(1 + i % 3 for i in range(48))
    for name, key in (
        ("swan_request_activity_ratio_sum", "quality_activity"),
        ("swan_request_budget_ratio_sum", "quality_budget"),
        ("swan_served_accuracy_total", "quality_expected"),
    ):
        assert totals[name] == pytest.approx(sum(float(answer[key]) for answer in answers), rel=1e-12)
    assert totals["nv_inference_request_success_total"] == len(answers)


def test_concurrent_answers_over_both_protocols_are_what_the_model_says_to_each_alone() -> None:
    model = GatedNumpy(deadline_s=60.0)

    async def scenario() -> list[dict[str, Any]]:
        async with scheduled_server(model, ThreadWorkers(2)) as server:
            return (await ask_many(server))[0]

    for i, answer in enumerate(asyncio.run(scenario())):
        x, contract = inputs(i, 1 + i % 3), CONTRACTS[i % len(CONTRACTS)]
        budget = float(answer["quality_budget"])
        assert answer["y"] == model.infer({"x": x}, np.full(len(x), budget)).outputs["y"].ravel().tolist()
        assert budget >= contract.get("quality_min", 0.25)
        assert budget <= contract.get("quality_max", 1.0)
        if "quality" in contract:
            assert budget == (1.0 if contract["quality"] == "full" else contract["quality"])


def test_a_burst_on_real_threads_lowers_the_budget_of_its_first_batch_and_keeps_pinned_requests_full() -> None:
    """The deadline is given in units of the measured profile, so that the machine's speed does not matter."""
    model = GatedNumpy(features=256, units=4096, max_batch=8, deadline_s=1.0)
    count = 64

    async def scenario() -> tuple[list[Any], list[Any]]:
        async with scheduled_server(model) as server:
            scheduler = server.scheduler
            full_s = server.profile.seconds(1.0, 8) * count / 8
            contract = Contract(timeout_s=full_s / 2, deadline_policy=DeadlinePolicy.BEST_EFFORT)
            pinned = Contract(quality=Quality(1.0, 1.0), deadline_policy=DeadlinePolicy.BEST_EFFORT)

            def ask(i: int, wanted: Contract) -> asyncio.Task[Any]:
                x = {"x": inputs(i, 1, 256)}
                return asyncio.ensure_future(scheduler.submit(Work("gated", "1", x, 1, wanted, time.monotonic())))

            burst = [ask(i, contract) for i in range(count)]
            full = [ask(i, pinned) for i in range(4)]
            return await asyncio.gather(*burst), await asyncio.gather(*full)

    burst, full = asyncio.run(scenario())
    assert burst[0].budget < 1.0
    assert burst[0].limited_by is LimitedBy.LOAD
    assert {answer.budget for answer in full} == {1.0}
