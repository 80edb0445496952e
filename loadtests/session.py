"""Prepared requests to one server: the open-loop run, and a closed loop to find what it can take at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from loadtests import generator
from loadtests.answers import Answer, Outcome
from loadtests.clients import Client, GrpcClient
from loadtests.http_client import HttpClient
from loadtests.memory import MemoryWatch
from loadtests.payloads import Sample, grpc_request, http_binary, http_json, input_spec
from loadtests.records import Run
from loadtests.samples import Scorer, samples_for
from loadtests.schedules import Times
from loadtests.target import Target
from service.types import ParameterValue

PROTOCOLS = ("http", "http-json", "grpc")
CLIENT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of request in the mix: its deadline and the parameters beyond it."""

    deadline_s: float
    parameters: Mapping[str, ParameterValue]


Connect = Callable[[tuple[Variant, ...]], Client]


class Session:
    """Sends real inputs. connect: makes a client whose request v * len(samples) + s is sample s as variant v asks.

    pid: of the service's launcher, if it runs on this machine: runs then record the memory of its processes.
    """

    def __init__(self, samples: Sequence[Sample], connect: Connect, pid: int | None = None) -> None:
        self.samples = samples
        self._pid = pid
        self.connect = connect
        self.scorer = Scorer(samples)

    async def run(
        self,
        times: Times,
        variants: tuple[Variant, ...],
        seed: int = 0,
        progress: generator.Progress | None = None,
    ) -> Run:
        """Play a schedule; each arrival is a random sample of a random variant, drawn from the seed."""
        rng = np.random.default_rng(seed)
        chosen = rng.integers(0, len(variants), times.size)
        samples = chosen * len(self.samples) + rng.integers(0, len(self.samples), times.size)
        deadlines = np.array([variant.deadline_s for variant in variants])[chosen]
        plan = generator.Plan(times, samples, deadlines)
        client = self.connect(variants)
        try:
            with nullcontext() if self._pid is None else MemoryWatch(self._pid) as watch:
                run = await generator.run(plan, client, self.scorer, progress)
            return replace(run, variant=chosen, memory=watch.since(run.began) if watch else None)
        finally:
            await client.close()

    async def saturate(self, variant: Variant, concurrency: int, duration_s: float) -> float:
        """Closed loop: answers a second with `concurrency` requests always under way."""
        client = self.connect((variant,))
        end = time.perf_counter() + duration_s
        counts = await asyncio.gather(*(self._loop(client, worker, end) for worker in range(concurrency)))
        await client.close()
        return sum(counts) / duration_s

    async def _loop(self, client: Client, worker: int, end: float) -> int:
        done = 0
        while time.perf_counter() < end:
            answer = await client.send((worker * 37 + done) % len(self.samples))
            done += answer.outcome == Outcome.OK
        return done

    async def reference(self, requests: int = 512) -> float:
        """Mean score at full quality without load; remembers full-quality answers where there are no labels."""
        client = self.connect((Variant(CLIENT_TIMEOUT_S, {"quality": "full"}),))
        answers: list[Answer] = []
        for index in range(min(requests, len(self.samples))):
            answers.append(await client.send(index))
        await client.close()
        bad = [answer.detail for answer in answers if answer.outcome != Outcome.OK]
        if bad:
            raise RuntimeError(f"{len(bad)} of {len(answers)} unloaded full-quality requests failed: {bad[0]}")
        if self.samples[0].label is None:
            self.scorer = Scorer(self.samples, [answer.output for answer in answers if answer.output is not None])
        return float(np.mean([self.scorer(i, answer) for i, answer in enumerate(answers)]))


def service_session(target: Target, model: str, protocol: str = "http", count: int = 512) -> Session:
    """A session with one model of a service that speaks the Open Inference Protocol. protocol: one of PROTOCOLS."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    spec = input_spec(target.get(f"/v2/models/{model}"))
    samples = samples_for(spec, count)
    path = f"/v2/models/{model}/infer"

    def connect(variants: tuple[Variant, ...]) -> Client:
        wanted = [
            (sample, {"timeout": int(variant.deadline_s * 1e6), **variant.parameters})
            for variant in variants
            for sample in samples
        ]
        if protocol == "grpc":
            requests = [grpc_request(model, sample, spec, parameters) for sample, parameters in wanted]
            return GrpcClient(target.grpc, requests, CLIENT_TIMEOUT_S, target.headers)
        bodies: list[tuple[bytes, int | None]] = [
            (http_json(sample, spec, parameters), None)
            if protocol == "http-json"
            else http_binary(sample, spec, parameters)
            for sample, parameters in wanted
        ]
        return HttpClient(target.url, path, bodies, CLIENT_TIMEOUT_S, target.headers)

    return Session(samples, connect, target.pid)
