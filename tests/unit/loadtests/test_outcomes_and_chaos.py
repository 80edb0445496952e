"""How requests end is told apart, in counts, verdict and report; disturbances reach real processes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests import report
from loadtests.answers import Answer, Outcome, from_http
from loadtests.capacity import Capacity
from loadtests.chaos import CHAOS, Disturber, NoReplica, kill_one_replica, replicas_of, roll_replicas, runs
from loadtests.clients import GrpcClient
from loadtests.outcomes import LABELS, outcomes_of
from loadtests.play import ADAPTIVE, Block, Disturbance, Mark, Played, Yardstick
from loadtests.records import Recorder, Run, summarise
from loadtests.verdict import checks, conclusion

DEADLINE_S = 0.1


def run_of(ends: list[tuple[Outcome, float, str]]) -> Run:
    """One request a tenth of a second: (outcome, latency, what it was told)."""
    recorder = Recorder(np.arange(len(ends)) * 0.1, np.full(len(ends), DEADLINE_S))
    for i, (outcome, latency_s, said) in enumerate(ends):
        recorder.sent[i] = recorder.intended[i]
        score = 1.0 if outcome == Outcome.OK else float("nan")
        recorder.record(i, recorder.intended[i] + latency_s, Answer(outcome, {}, None, 0.0, said), score)
    return recorder.finish()


@pytest.mark.parametrize(
    ("status", "headers", "outcome"),
    [
        (503, {b"retry-after": b"2"}, Outcome.REFUSED),
        (429, {b"retry-after": b"1"}, Outcome.REFUSED),
        (503, {}, Outcome.ERROR),  # a proxy without a server: nobody says when to come back
        (503, {b"retry-after": b"Wed, 21 Oct 2026 07:28:00 GMT"}, Outcome.ERROR),
        (504, {}, Outcome.EXPIRED),
        (408, {}, Outcome.ERROR),
        (500, {b"retry-after": b"1"}, Outcome.ERROR),
    ],
)
def test_an_http_answer_is_a_refusal_only_if_it_says_when_to_come_back(
    status: int, headers: dict[bytes, bytes], outcome: Outcome
) -> None:
    answer = from_http(status, headers, b'{"error": "no"}')
    assert answer.outcome is outcome
    assert answer.detail == f"{status} no"


@asynccontextmanager
async def refusing_server(code: grpc.StatusCode, pushback_ms: str | None) -> AsyncIterator[str]:
    """A gRPC server that aborts every call with this code; OK = never answers."""

    async def infer(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if code is grpc.StatusCode.OK:
            await asyncio.Event().wait()
        trailing = () if pushback_ms is None else (("grpc-retry-pushback-ms", pushback_ms),)
        await context.abort(code, "because", trailing)
        return b""

    handler = grpc.unary_unary_rpc_method_handler(infer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("code", "pushback_ms", "outcome"),
    [
        (grpc.StatusCode.UNAVAILABLE, "1500", Outcome.REFUSED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "1500", Outcome.REFUSED),
        (grpc.StatusCode.UNAVAILABLE, None, Outcome.ERROR),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, Outcome.ERROR),  # a message that is too large
        (grpc.StatusCode.DEADLINE_EXCEEDED, None, Outcome.EXPIRED),
        (grpc.StatusCode.CANCELLED, None, Outcome.ERROR),
        (grpc.StatusCode.OK, None, Outcome.LOST),
    ],
)
async def test_a_grpc_answer_is_read_alike_and_the_clients_own_deadline_is_no_answer(
    code: grpc.StatusCode, pushback_ms: str | None, outcome: Outcome
) -> None:
    async with refusing_server(code, pushback_ms) as address:
        client = GrpcClient(address, [b""], timeout_s=30.0 if code is not grpc.StatusCode.OK else 0.05)
        answer = await client.send(0)
        await client.close()
    assert answer.outcome is outcome
    assert answer.retry_after_s == (1.5 if pushback_ms else 0.0)


async def test_nobody_listening_is_no_answer() -> None:
    async with refusing_server(grpc.StatusCode.UNAVAILABLE, "1") as address:
        pass
    client = GrpcClient(address, [b""], timeout_s=30.0)
    assert (await client.send(0)).outcome is Outcome.LOST
    await client.close()


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.sampled_from((0.05, 0.2)), st.text(max_size=5)), max_size=40))
def test_every_request_is_in_exactly_one_count(ends: list[tuple[Outcome, float, str]]) -> None:
    run = run_of(ends)
    counted = outcomes_of([run, run])
    assert sum(getattr(counted, name) for name in LABELS) == 2 * len(ends)
    assert counted.on_time == 2 * int(run.on_time.sum())
    assert counted.failed == 2 * int(np.isin(run.outcome, (Outcome.ERROR, Outcome.LOST)).sum())
    assert sum(message.count for message in counted.messages) <= counted.failed + counted.refused + counted.expired


def test_the_three_most_frequent_texts_of_errors_are_kept_whatever_their_request_ids() -> None:
    ends = [(Outcome.ERROR, 0.01, f"500 under request id {i:016x}") for i in range(5)]
    ends += [(Outcome.ERROR, 0.01, text) for text in ("b", "b", "b", "c", "c", "d")]
    ends += [(Outcome.REFUSED, 0.01, "503 busy")] * 9 + [(Outcome.LOST, 0.01, "reset")]
    said = [(message.outcome, message.text, message.count) for message in outcomes_of([run_of(ends)]).messages]
    assert said == [
        ("error", "500 under request id ...", 5),
        ("error", "b", 3),
        ("error", "c", 2),
        ("lost", "reset", 1),
        ("refused", "503 busy", 9),
    ]


def played(name: str, extra: list[tuple[Outcome, float, str]], new: int = 2) -> Played:
    scenario = CHAOS[name].scenario
    run = run_of([(Outcome.OK, 0.01, "")] * 60 + [(Outcome.REFUSED, 0.001, "503 busy")] * 30 + extra)
    block = Block(ADAPTIVE, 1, run, summarise(run, end=scenario.load.length_s))
    gone = 1 if name == "replica-kill" else 2
    marks = (Mark(5.0, "update <began>"), Mark(7.5, "update ended"))
    what = Disturbance(marks, replicas=2, gone=gone, new=new, trouble_s=3.9)
    yardstick = Yardstick(DEADLINE_S, 1.0, Capacity(10.0, 12.0, ()))
    return Played(scenario, "m", "http", yardstick, (block,), (), what)


@pytest.mark.parametrize("name", sorted(CHAOS))
def test_refusals_fail_no_chaos_scenario_and_are_shown_beside_the_verdict(name: str) -> None:
    result = played(name, [])
    assert conclusion(result) == "all targets met"
    assert "refused 30" in checks(result)[0].got


@pytest.mark.parametrize(
    ("name", "outcome", "met"),
    [
        ("rolling-update", Outcome.ERROR, False),
        ("rolling-update", Outcome.LOST, False),
        ("rolling-update", Outcome.EXPIRED, True),
        ("replica-kill", Outcome.ERROR, True),  # an answer, though a bad one
        ("replica-kill", Outcome.LOST, False),
    ],
)
def test_one_failed_request_decides(name: str, outcome: Outcome, met: bool) -> None:
    assert checks(played(name, [(outcome, 0.01, "why")]))[0].passed is met


@pytest.mark.parametrize("name", sorted(CHAOS))
def test_replicas_that_do_not_come_back_are_a_miss(name: str) -> None:
    assert "replaced" in conclusion(played(name, [], new=0))


def test_the_report_of_a_disturbed_run_counts_ends_and_marks_what_was_done(tmp_path: Path) -> None:
    page = report.write(played("rolling-update", [(Outcome.ERROR, 0.01, "500 <b>broken</b>")]), tmp_path, "swan x")
    record = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    counts = {name: record["outcomes"][ADAPTIVE][name] for name in LABELS}
    assert counts == {"on_time": 60, "late": 0, "refused": 30, "expired": 0, "error": 1, "lost": 0}
    assert [mark["at_s"] for mark in record["disturbance"]["marks"]] == [5.0, 7.5]
    text = page.read_text(encoding="utf-8")
    assert "update &lt;began&gt; at 5.0 s" in text
    assert "<td>refused</td><td>30 (at 6.0-8.9 s)</td>" in text
    assert "error, 1 times: 500 &lt;b&gt;broken&lt;/b&gt;" in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


# Two children whose command lines name them replicas; SIGHUP replaces both, one after the other.
SERVICE = """
import signal, subprocess, sys
replica = [sys.executable, "-c", "import sys; sys.stdin.read()", "ServeReplica"]
start = lambda: subprocess.Popen(replica, stdin=subprocess.PIPE)
replicas = [start(), start()]
def roll(number, frame):
    for i, old in enumerate(replicas):
        replicas[i] = start()
        old.kill()
        old.wait()
signal.signal(signal.SIGHUP, roll)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def service() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SERVICE], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    while len(replicas_of(process.pid)) < 2:  # a program that has just been started has no command line yet
        pass
    yield process
    replicas = replicas_of(process.pid)
    process.kill()  # first, or it would start others
    for replica in replicas:
        replica.kill()
    process.communicate()


async def test_a_rolling_update_ends_when_no_old_replica_is_left(service: subprocess.Popen[bytes]) -> None:
    disturber = Disturber(service.pid, roll_replicas, lambda text: None)
    said: list[str] = []
    await roll_replicas(service.pid, disturber.before, said.append)
    assert said == ["update began", "update ended"]
    became = await disturber.finish(played("rolling-update", []).blocks[0])
    assert (became.replicas, became.gone, became.new) == (2, 2, 2)


async def test_a_replica_is_killed_once_when_the_run_has_lasted(service: subprocess.Popen[bytes]) -> None:
    said: list[str] = []
    seen: list[float] = []
    disturber = Disturber(service.pid, kill_one_replica, said.append, lambda now, recorder: seen.append(now))
    recorder = Recorder(np.zeros(0), np.zeros(0))
    for now_s in (0.5, 5.25, 5.5):
        disturber.watch(now_s, recorder)
        await asyncio.sleep(0)
    while runs(disturber.before[0]):  # it stays as a zombie: this service reaps nobody
        await asyncio.sleep(0)
    became = await disturber.finish(played("replica-kill", []).blocks[0])
    assert (became.replicas, became.gone, became.new) == (2, 1, 0)
    assert [mark.says for mark in became.marks] == ["replica killed"]
    assert became.marks[0].at_s >= 5.25
    assert became.trouble_s == pytest.approx(8.9 - became.marks[0].at_s)
    assert seen == [0.5, 5.25, 5.5]


def test_a_service_without_replicas_is_told_so(service: subprocess.Popen[bytes]) -> None:
    leaf = replicas_of(service.pid)[0]
    with pytest.raises(NoReplica, match=str(leaf.pid)):
        Disturber(leaf.pid, kill_one_replica, lambda text: None)
