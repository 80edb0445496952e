"""ModelStreamInfer: many requests in work at once, answers in the order of the requests, errors in band."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from service.api import grpc_codec, proto
from service.api.grpc_codec import CallFacts
from service.api.http import new_request_id
from service.api.status import refusal

Infer = Callable[[Any, CallFacts], Awaitable[Any]]
_FINAL = "triton_final_response"
_STATUS_ERRORS = "triton_grpc_error"


class InferStream:
    """One stream. With the metadata `triton_grpc_error: true` the first error ends it with a gRPC status instead."""

    def __init__(self, infer: Infer, facts: CallFacts, max_requests: int) -> None:
        self._infer = infer
        self._facts = facts
        self._status_errors = facts.headers.get(_STATUS_ERRORS, "").lower() == "true"
        self._running: asyncio.Queue[asyncio.Task[list[Any]] | None] = asyncio.Queue(max_requests)

    async def answers(self, messages: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        reader = asyncio.create_task(self._read(messages))
        current: asyncio.Task[list[Any]] | None = None
        try:
            while (current := await self._running.get()) is not None:
                for answer in await current:
                    yield answer
            await reader
        finally:
            reader.cancel()
            self._cancel(current)
            while not self._running.empty():
                self._cancel(self._running.get_nowait())

    async def _read(self, messages: AsyncIterator[Any]) -> None:
        """Start a task a request; the bounded queue stops reading when too many wait."""
        try:
            async for message in messages:
                task = asyncio.create_task(self._one(message))
                try:
                    await self._running.put(task)
                except asyncio.CancelledError:
                    task.cancel()
                    raise
        finally:
            await self._running.put(None)

    async def _one(self, message: Any) -> list[Any]:
        facts = CallFacts(
            self._facts.headers, new_request_id(), time.monotonic(), self._facts.deadline_s, self._facts.tenant
        )
        try:
            answer = await self._infer(message, facts)
        except Exception as error:
            if self._status_errors:
                raise
            return [_error(message.id, refusal(error, facts.request_id).message)]
        wrapped = proto.ModelStreamInferResponse(infer_response=answer)
        wants_final = grpc_codec.wants_empty_final(message)
        wrapped.infer_response.parameters[_FINAL].bool_param = not wants_final
        return [wrapped, _empty_final(answer)] if wants_final else [wrapped]

    def _cancel(self, task: asyncio.Task[list[Any]] | None) -> None:
        if task is not None:
            task.cancel()


def _error(request_id: str, text: str) -> Any:
    message = proto.ModelStreamInferResponse(error_message=text.encode(errors="replace").decode())
    message.infer_response.id = request_id
    message.infer_response.parameters[_FINAL].bool_param = True
    return message


def _empty_final(answer: Any) -> Any:
    message = proto.ModelStreamInferResponse()
    message.infer_response.model_name = answer.model_name
    message.infer_response.model_version = answer.model_version
    message.infer_response.id = answer.id
    message.infer_response.parameters[_FINAL].bool_param = True
    return message
