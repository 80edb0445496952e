"""Closed-loop clients of a cluster's ingresses: what each request got, and what had to be sent twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event

import httpx
import numpy as np
from tritonclient.utils import InferenceServerException

from tests.support.oip_clients import OipClient

# long enough that a node which dies has requests in work; the machine of a test may be crowded
MODEL = "minilm-embedder"
TEXTS = [f"{number} " + "a small boat on a wide and quiet lake " * 5 for number in range(4)]
PARAMETERS = {"quality": "full", "deadline_policy": "best_effort"}
TENSOR = {"name": "TEXT", "datatype": "BYTES", "shape": [len(TEXTS), 1], "data": TEXTS}
BODY = {"inputs": [TENSOR], "parameters": PARAMETERS}
TIMEOUT_S = 120.0


@dataclass
class Answers:
    """What the requests of some clients got. sent_again: those whose ingress died under them, sent to a second one."""

    problems: list[str | None] = field(default_factory=list)  # of each request; None = answered
    sent_again: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[str]:
        return [problem for problem in self.problems if problem is not None]

    @property
    def answered(self) -> int:
        return self.problems.count(None)

    def more(self, count: int) -> Callable[[], bool]:
        """Whether `count` more requests have ended since now."""
        goal = len(self.problems) + count
        return lambda: len(self.problems) >= goal


@contextmanager
def running(*clients: Callable[[Event], None]) -> Iterator[None]:
    """The clients, each on a thread of its own, for as long as the context is open; raises what one of them raised."""
    stop = Event()
    with ThreadPoolExecutor(len(clients)) as pool:
        sending = [pool.submit(client, stop) for client in clients]
        try:
            yield
        finally:
            stop.set()
        for one in sending:
            one.result()


def tritonclient(kind: str, host: str, answers: Answers) -> Callable[[Event], None]:
    """A client of `host`'s ingress that sends nothing again: it writes a request in one piece, so the ingress may."""

    def send(stop: Event) -> None:
        client = OipClient(kind, f"{host}:8000", f"{host}:8001")
        texts = np.array([[text] for text in TEXTS], object)
        try:
            while not stop.is_set():
                try:
                    client.infer(MODEL, {"TEXT": texts}, parameters=PARAMETERS)
                    answers.problems.append(None)
                except (InferenceServerException, OSError) as error:
                    answers.problems.append(_text(error))
        finally:
            client.close()

    return send


def leaving_when_broken(host: str, second: str, answers: Answers) -> Callable[[Event], None]:
    """A client of `host`'s ingress that goes to `second`'s, for good, once its connection breaks or is refused."""

    def send(stop: Event) -> None:
        ingress = host
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            while not stop.is_set():
                try:
                    answers.problems.append(_post(client, ingress))
                except httpx.TransportError as error:
                    if ingress == second:
                        answers.problems.append(_text(error))
                        continue
                    ingress = second
                    answers.sent_again.append(_text(error))
                    answers.problems.append(_post(client, ingress))

    return send


def while_ready(host: str, answers: Answers) -> Callable[[Event], None]:
    """A client that looks at the probe of `host`'s ingress before each request, and leaves once it fails."""

    def send(stop: Event) -> None:
        with httpx.Client(trust_env=False, timeout=TIMEOUT_S) as client:
            while not stop.is_set() and client.get(f"http://{host}:8000/-/healthz").status_code == 200:
                try:
                    answers.problems.append(_post(client, host))
                except httpx.TransportError as error:
                    answers.problems.append(_text(error))

    return send


def _post(client: httpx.Client, host: str) -> str | None:
    """What went wrong."""
    answer = client.post(f"http://{host}:8000/v2/models/{MODEL}/infer", json=BODY)
    return None if answer.status_code == 200 else f"{answer.status_code} {answer.text[:200]}"


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
