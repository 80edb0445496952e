"""A flood's surplus is refused by its bytes: fast, well formed, counted, and without harm to whoever may still come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc.aio as triton_grpc
from tritonclient.utils import InferenceServerException

from service.scheduling.intake import HOLD_S, MANY
from tests.support.gated_numpy import GatedNumpy
from tests.support.manual import ManualClock, ManualWorkers
from tests.support.scheduled_server import ScheduledServer, scheduled_server

PATH = "/v2/models/gated/infer"
DEADLINE_S = 30.0
TENSOR = {"name": "x", "datatype": "FP64", "shape": [1, 8], "data": [1] * 8}
Answer = tuple[int, dict[str, str], dict[str, Any]]


@dataclass
class Flooded:
    """A service with one request in work on a worker that a test moves; no time passes for its scheduler."""

    server: ScheduledServer
    workers: ManualWorkers
    clock: ManualClock
    client: httpx.AsyncClient

    def ask(self, path: str = PATH, headers: dict[str, str] | None = None, **parameters: Any) -> asyncio.Task[Any]:
        body = {"inputs": [TENSOR], "parameters": parameters}
        return asyncio.create_task(self.client.post(path, json=body, headers=headers))

    async def until_pending(self, requests: int) -> None:
        while self.server.scheduler.num_pending != requests:
            await asyncio.sleep(0)

    async def finish_batch(self) -> None:
        while not self.workers.jobs:
            await asyncio.sleep(0)
        self.workers.finish(0, 0.001)

    async def finish_all(self) -> None:
        while self.server.scheduler.num_pending:
            await self.finish_batch()

    async def surplus(self) -> float:
        series = 'swan_shed_total{model="gated",reason="surplus",version="1"} '
        lines = (await self.client.get("/metrics")).text.splitlines()
        return sum(float(line.removeprefix(series)) for line in lines if line.startswith(series))


@asynccontextmanager
async def flooded() -> AsyncIterator[Flooded]:
    workers, clock = ManualWorkers(), ManualClock(time.monotonic())
    async with (
        scheduled_server(GatedNumpy(deadline_s=DEADLINE_S), workers, clock) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.address.http_port}", timeout=60) as client,
    ):
        it = Flooded(server, workers, clock, client)
        in_work = it.ask()
        await it.until_pending(1)
        for _ in range(MANY):
            server.scheduler.count_shed("gated", "1", "ingress")
        yield it
        await it.finish_all()
        assert (await in_work).status_code == 200


def message(headers: dict[str, str] | None = None) -> bytes:
    body = json.dumps({"inputs": [TENSOR]}).encode()
    lines = [f"POST {PATH} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, json.loads(await reader.readexactly(int(headers["content-length"])))


async def test_a_refusal_says_when_to_come_back_and_its_connection_serves_the_next_request() -> None:
    async with flooded() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.server.address.http_port)
        for number in range(3):
            writer.write(message({"X-Request-Id": f"mine-{number}"}))
            status, headers, body = await answer(reader)
            assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/json")
            assert headers["x-request-id"] == body["request_id"] == f"mine-{number}"
            assert "more requests arrive" in body["error"]
        writer.write(message())
        _, headers, body = await answer(reader)
        assert headers["x-request-id"] == body["request_id"] != ""
        assert it.server.scheduler.num_pending == 1  # none of them was read
        it.clock.now_s += HOLD_S  # the flood is over
        writer.write(message())
        await it.until_pending(2)
        await it.finish_all()
        status, _, body = await answer(reader)
        assert (status, body["model_name"]) == (200, "gated")
        writer.close()


async def test_as_many_are_read_as_were_answered() -> None:
    async with flooded() as it:
        assert (await it.ask()).status_code == 503
        await it.finish_batch()
        read = it.ask()
        await it.until_pending(1)
        assert (await it.ask()).status_code == 503
        await it.finish_all()
        assert (await read).status_code == 200


@pytest.mark.parametrize(
    ("parameters", "headers"),
    [
        ({"priority": 1}, {}),
        ({"deadline_policy": "best_effort"}, {}),
        ({"timeout": int(2e6 * DEADLINE_S)}, {}),
        ({}, {"Priority": "u=1"}),
        ({}, {"X-Request-Timeout-Seconds": f"{2 * DEADLINE_S}"}),
    ],
)
async def test_who_has_a_rank_or_more_time_is_judged_by_the_law(
    parameters: dict[str, Any], headers: dict[str, str]
) -> None:
    async with flooded() as it:
        read = it.ask(headers=headers, **parameters)
        await it.until_pending(2)
        await it.finish_all()
        assert (await read).status_code == 200


async def test_who_is_too_old_to_be_answered_in_time_takes_nobodys_place() -> None:
    async with flooded() as it:
        await it.finish_batch()  # room for one
        old = {"X-Request-Start": f"t={round((time.time() - 1.5 * DEADLINE_S) * 1e6)}"}
        assert (await it.ask(headers=old)).status_code == 503
        read = it.ask()
        await it.until_pending(1)
        await it.finish_all()
        assert (await read).status_code == 200


async def test_everything_but_inference_is_answered_as_ever() -> None:
    async with flooded() as it:
        for path in ("/v2", "/v2/models/gated", "/v2/models/gated/stats", "/v2/health/live"):
            assert (await it.client.get(path)).status_code == 200
        assert (await it.ask("/v2/models/other/infer")).status_code == 404
        for path in (PATH + "?a=1", "/v2/models/gated/versions/1/infer"):
            assert (await it.ask(path)).status_code == 503


async def test_a_request_in_pieces_is_refused_when_it_is_whole() -> None:
    async with flooded() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.server.address.http_port)
        whole = message()
        body = whole.index(b"\r\n\r\n") + 4
        for piece in (whole[:body], whole[body : body + 20], whole[body + 20 : -1]):
            writer.write(piece)
            await writer.drain()
            await it.client.get("/v2/health/live")  # the piece has been looked at when this is answered
            assert await it.surplus() == 0
        writer.write(whole[-1:] + b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        await it.until_pending(2)  # something follows: for the parser, and the law
        await it.finish_all()
        assert (await answer(reader))[0] == 200
        assert (await answer(reader))[2] == {"live": True}
        writer.close()


async def test_a_request_whose_body_comes_later_is_refused_when_it_is_whole() -> None:
    async with flooded() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.server.address.http_port)
        whole = message()
        body = whole.index(b"\r\n\r\n") + 4
        writer.write(whole[:body])
        await writer.drain()
        await it.client.get("/v2/health/live")
        assert await it.surplus() == 0
        writer.write(whole[body:])
        assert (await answer(reader))[0] == 503
        assert await it.surplus() == 1
        writer.close()


async def test_pipelined_requests_are_each_answered_once() -> None:
    async with flooded() as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.server.address.http_port)
        writer.write(message() + message())  # only a parser knows where the second one begins
        await it.until_pending(2)
        await it.finish_all()
        assert (await answer(reader))[0] == 200
        await it.until_pending(1)
        await it.finish_all()
        assert (await answer(reader))[0] == 200
        writer.write(b"GET /v2/health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (await answer(reader))[2] == {"live": True}
        writer.close()


async def test_counts_agree_with_what_clients_saw_over_both_protocols() -> None:
    async with flooded() as it:
        refused = 0
        for _ in range(5):
            refused += (await it.ask()).status_code == 503
        async with triton_grpc.InferenceServerClient(f"127.0.0.1:{it.server.address.grpc_port}") as client:
            tensor = triton_grpc.InferInput("x", [1, 8], "FP64")
            tensor.set_data_from_numpy(np.ones((1, 8)))
            for timeout in (None, int(1e6)):
                with pytest.raises(InferenceServerException, match="more requests arrive") as error:
                    await client.infer("gated", [tensor], timeout=timeout)
                assert "UNAVAILABLE" in str(error.value.status())
                refused += 1
            longer = asyncio.create_task(client.infer("gated", [tensor], timeout=int(2e6 * DEADLINE_S)))
            await it.until_pending(2)
            await it.finish_all()
            assert (await longer).as_numpy("y").shape == (1, 4)
        assert refused == 7
        assert await it.surplus() == refused
        statistics = (await it.client.get("/v2/models/gated/stats")).json()["model_stats"][0]["inference_stats"]
        assert statistics["fail"]["count"] == refused


async def test_a_draining_replica_answers_the_flood_and_what_is_in_work() -> None:
    async with flooded() as it:
        draining = asyncio.create_task(it.server.scheduler.drain())
        assert (await it.ask()).status_code == 503
        await it.finish_all()
        await draining
        assert (await it.ask()).status_code == 503
