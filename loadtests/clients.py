"""What the generator asks of a client, and the one that speaks gRPC with raw bytes."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grpc
import grpc.aio

from loadtests.answers import Answer, Outcome, from_grpc

Done = Callable[[Answer], None]

REFUSED_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
BROKEN = ("failed to connect", "Connection reset", "Socket closed", "recvmsg:")  # gRPC's texts for its own UNAVAILABLE


class Client(Protocol):
    """Sends prepared request number `index` and reads the answer; never raises for what a service may do."""

    def start(self, index: int, done: Done) -> None:
        """Send; `done` is called exactly once, later: with the answer, or with what says that there was none."""
        ...

    async def send(self, index: int) -> Answer: ...

    async def close(self) -> None: ...


class Awaited(ABC):
    """`start` for a client that is awaited: a task for each request."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    async def send(self, index: int) -> Answer: ...

    def start(self, index: int, done: Done) -> None:
        task = asyncio.get_running_loop().create_task(self._send(index, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, index: int, done: Done) -> None:
        done(await self.send(index))


class GrpcClient(Awaited):
    """ModelInfer with serialized requests, one channel."""

    def __init__(
        self, target: str, requests: Sequence[bytes], timeout_s: float, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self._metadata = tuple((headers or {}).items())
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._call = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._requests = requests
        self._timeout_s = timeout_s

    async def send(self, index: int) -> Answer:
        began = time.perf_counter()
        try:
            return from_grpc(
                await self._call(
                    self._requests[index % len(self._requests)], timeout=self._timeout_s, metadata=self._metadata
                )
            )
        except grpc.aio.AioRpcError as error:
            return _grpc_refusal(error, given_up=time.perf_counter() - began >= self._timeout_s)

    async def close(self) -> None:
        await self._channel.close()


def _grpc_refusal(error: grpc.aio.AioRpcError, given_up: bool) -> Answer:
    """given_up: by this client, whose own deadline has the code that a server's has."""
    code, details = error.code(), error.details() or ""
    pushback_ms = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    if given_up or any(text in details for text in BROKEN):
        outcome = Outcome.LOST
    elif code in REFUSED_CODES and pushback_ms is not None:
        outcome = Outcome.REFUSED
    else:
        outcome = Outcome.EXPIRED if code is grpc.StatusCode.DEADLINE_EXCEEDED else Outcome.ERROR
    return Answer(outcome, {}, None, int(pushback_ms or 0) / 1e3, f"{code.name} {details}")
