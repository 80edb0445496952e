"""The RPCs of GRPCInferenceService: translate messages for the data plane and its answers back, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from google.protobuf import json_format

from service.api import grpc_codec, proto
from service.api.auth import Scope
from service.api.buffers import off_loop
from service.api.front import Front
from service.api.grpc_codec import CallFacts
from service.api.grpc_frame import Rpc
from service.api.grpc_stream import InferStream
from service.errors import NotOffered
from service.inference.dataplane import EXTENSIONS, Dataplane
from service.inference.limits import Limits
from service.inference.metadata import model_metadata, statistics_json


class GrpcApi:
    """All twenty RPCs; those that are not offered say so."""

    def __init__(self, dataplane: Dataplane, limits: Limits, front: Front) -> None:
        self._dataplane = dataplane
        self._limits = limits
        self._front = front

    def rpcs(self) -> dict[tuple[str, str], Rpc]:
        infer, admin, health = Scope.INFER, Scope.ADMIN, Scope.HEALTH
        table: dict[str, tuple[Scope, Any]] = {
            "ServerLive": (health, self.server_live),
            "ServerReady": (health, self.server_ready),
            "ModelReady": (health, self.model_ready),
            "ServerMetadata": (infer, self.server_metadata),
            "ModelMetadata": (infer, self.model_metadata),
            "ModelInfer": (infer, self.model_infer),
            "ModelConfig": (infer, self.model_config),
            "ModelStatistics": (infer, self.model_statistics),
            "RepositoryIndex": (infer, self.repository_index),
            "RepositoryModelLoad": (admin, self.load),
            "RepositoryModelUnload": (admin, self.unload),
            "SystemSharedMemoryStatus": (infer, self.no_system_regions),
            "SystemSharedMemoryRegister": (admin, self.refuse_shared_memory),
            "SystemSharedMemoryUnregister": (admin, self.refuse_shared_memory),
            "CudaSharedMemoryStatus": (infer, self.no_cuda_regions),
            "CudaSharedMemoryRegister": (admin, self.refuse_shared_memory),
            "CudaSharedMemoryUnregister": (admin, self.refuse_shared_memory),
            "TraceSetting": (infer, self.trace_setting),
            "LogSettings": (infer, self.log_settings),
        }
        rpcs = {
            (proto.SERVICE, name): Rpc(scope, getattr(proto, _request_name(name)), handler)
            for name, (scope, handler) in table.items()
        }
        rpcs[proto.SERVICE, "ModelStreamInfer"] = Rpc(infer, proto.ModelInferRequest, self.model_stream_infer, True)
        return rpcs

    async def model_infer(self, message: Any, facts: CallFacts) -> Any:
        await self._front.enter(message.model_name, message.model_version, facts.arrival_s)
        size = _size(message)
        with self._front.buffers.hold() as hold:
            hold.add(size)
            request = await off_loop(size, grpc_codec.decode, message, facts, self._limits)
            response = await self._dataplane.infer(request)
            size = sum([output.array.nbytes for output in response.outputs])
            return await off_loop(size, grpc_codec.encode, response)

    async def model_stream_infer(self, messages: AsyncIterator[Any], facts: CallFacts) -> AsyncIterator[Any]:
        stream = InferStream(self.model_infer, facts, self._limits.max_stream_requests)
        async with aclosing(stream.answers(messages)) as answers:
            async for answer in answers:
                yield answer

    async def server_live(self, message: Any, facts: CallFacts) -> Any:
        return proto.ServerLiveResponse(live=self._dataplane.live())

    async def server_ready(self, message: Any, facts: CallFacts) -> Any:
        return proto.ServerReadyResponse(ready=self._dataplane.ready())

    async def model_ready(self, message: Any, facts: CallFacts) -> Any:
        return proto.ModelReadyResponse(ready=self._dataplane.model_ready(message.name, message.version))

    async def server_metadata(self, message: Any, facts: CallFacts) -> Any:
        identity = self._dataplane.identity
        return proto.ServerMetadataResponse(name=identity.name, version=identity.version, extensions=EXTENSIONS)

    async def model_metadata(self, message: Any, facts: CallFacts) -> Any:
        spec = self._dataplane.spec(message.name, message.version)
        metadata = model_metadata(spec, self._dataplane.versions(message.name))
        return proto.ModelMetadataResponse(**metadata)

    async def model_config(self, message: Any, facts: CallFacts) -> Any:
        config = self._dataplane.config(message.name, message.version)
        return _from_json({"config": config}, proto.ModelConfigResponse())

    async def model_statistics(self, message: Any, facts: CallFacts) -> Any:
        statistics = self._dataplane.statistics(message.name, message.version)
        return _from_json(statistics_json(statistics), proto.ModelStatisticsResponse())

    async def repository_index(self, message: Any, facts: CallFacts) -> Any:
        _refuse_repository_name(message)
        answer = proto.RepositoryIndexResponse()
        for entry in self._dataplane.index(message.ready):
            answer.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return answer

    async def load(self, message: Any, facts: CallFacts) -> Any:
        _refuse_repository_name(message)
        await self._dataplane.load(message.model_name, list(message.parameters))
        return proto.RepositoryModelLoadResponse()

    async def unload(self, message: Any, facts: CallFacts) -> Any:
        _refuse_repository_name(message)
        await self._dataplane.unload(message.model_name)
        return proto.RepositoryModelUnloadResponse()

    async def no_system_regions(self, message: Any, facts: CallFacts) -> Any:
        return proto.SystemSharedMemoryStatusResponse()

    async def no_cuda_regions(self, message: Any, facts: CallFacts) -> Any:
        return proto.CudaSharedMemoryStatusResponse()

    async def refuse_shared_memory(self, message: Any, facts: CallFacts) -> Any:
        raise NotOffered("shared memory is not offered; send the data in the request")

    async def trace_setting(self, message: Any, facts: CallFacts) -> Any:
        wanted = {key: list(setting.value) for key, setting in message.settings.items() if setting.value}
        settings = self._dataplane.update_trace_settings(wanted, message.model_name)
        answer = proto.TraceSettingResponse()
        for key, values in settings.items():
            answer.settings[key].value.extend(values)
        return answer

    async def log_settings(self, message: Any, facts: CallFacts) -> Any:
        wanted = {
            key: getattr(setting, choice)
            for key, setting in message.settings.items()
            if (choice := setting.WhichOneof("parameter_choice")) is not None
        }
        answer = proto.LogSettingsResponse()
        for key, value in self._dataplane.update_log_settings(wanted).items():
            _set_log_value(answer.settings[key], value)
        return answer


def _size(message: Any) -> int:
    """Bytes of tensor data, near enough: raw contents, or typed ones by the whole message."""
    raws = message.raw_input_contents
    return sum(len(raw) for raw in raws) if raws else int(message.ByteSize())


def _request_name(rpc: str) -> str:
    return f"{rpc}Request"


def _set_log_value(target: Any, value: bool | int | str) -> None:
    if isinstance(value, bool):
        target.bool_param = value
    elif isinstance(value, int):
        target.uint32_param = value
    else:
        target.string_param = value


def _refuse_repository_name(message: Any) -> None:
    if message.repository_name:
        raise NotOffered("there is one model repository, without a name; leave repository_name out")


def _from_json(value: dict[str, Any], message: Any) -> Any:
    return json_format.ParseDict(value, message, descriptor_pool=proto.POOL)
