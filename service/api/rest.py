"""The HTTP routes: translate requests for the data plane and its answers back, and nothing else."""

from __future__ import annotations

import re
from typing import Any

import orjson

from service.api import rest_codec
from service.api.auth import Scope
from service.api.buffers import off_loop
from service.api.disconnect import CancelOnDisconnect
from service.api.front import Front
from service.api.http import JSON, Answer, Call, Endpoint
from service.api.http_body import accepted_encoding, compress, read_body
from service.api.json_reader import check_depth, read_json_object
from service.errors import InvalidRequest, NotFound, NotOffered, Unavailable
from service.inference.compute import server_timing
from service.inference.contract import parse_contract
from service.inference.dataplane import EXTENSIONS, Dataplane
from service.inference.limits import Limits
from service.inference.metadata import model_metadata, statistics_json
from service.types import InferRequest

RouteRow = tuple[str, str, Scope, Endpoint]  # method, path, scope, endpoint
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class RestApi:
    """Endpoints by route. nan_as_null: answer NaN in JSON outputs as null instead of the NaN literal."""

    def __init__(self, dataplane: Dataplane, limits: Limits, front: Front, nan_as_null: bool = False) -> None:
        self._dataplane = dataplane
        self._limits = limits
        self._nan_as_null = nan_as_null
        self._front = front
        identity = dataplane.identity
        self._server = _json({"name": identity.name, "version": identity.version, "extensions": EXTENSIONS})

    def routes(self) -> list[RouteRow]:
        """The most called first."""
        model = "/v2/models/{model}"
        versioned = model + "/versions/{version}"
        table: list[RouteRow] = []
        for path in (model, versioned):
            table += [
                ("POST", path + "/infer", Scope.INFER, self.infer),
                ("GET", path + "/ready", Scope.HEALTH, self.model_ready),
                ("GET", path + "/config", Scope.INFER, self.config),
                ("GET", path + "/stats", Scope.INFER, self.statistics),
            ]
        table += [
            ("GET", "/v2/health/live", Scope.HEALTH, self.live),
            ("GET", "/v2/health/ready", Scope.HEALTH, self.ready),
            ("GET", "/v2", Scope.INFER, self.server_metadata),
            ("GET", "/v2/", Scope.INFER, self.server_metadata),
            ("GET", "/v2/models/stats", Scope.INFER, self.statistics),
            ("GET", model, Scope.INFER, self.metadata),
            ("GET", versioned, Scope.INFER, self.metadata),
            ("POST", "/v2/repository/index", Scope.INFER, self.index),
            ("POST", "/v2/repository/{repository}/index", Scope.INFER, self.index),
            ("POST", "/v2/repository/models/{model}/load", Scope.ADMIN, self.load),
            ("POST", "/v2/repository/models/{model}/unload", Scope.ADMIN, self.unload),
            ("GET", "/v2/logging", Scope.INFER, self.log_settings),
            ("POST", "/v2/logging", Scope.ADMIN, self.update_log_settings),
            ("GET", "/v2/trace/setting", Scope.INFER, self.trace_settings),
            ("POST", "/v2/trace/setting", Scope.ADMIN, self.update_trace_settings),
            ("GET", model + "/trace/setting", Scope.INFER, self.trace_settings),
            ("POST", model + "/trace/setting", Scope.ADMIN, self.update_trace_settings),
        ]
        for kind in ("systemsharedmemory", "cudasharedmemory"):
            table += [
                ("GET", f"/v2/{kind}/status", Scope.INFER, self.no_regions),
                ("GET", f"/v2/{kind}/region/{{region}}/status", Scope.INFER, self.no_regions),
                ("POST", f"/v2/{kind}/unregister", Scope.ADMIN, self.refuse_shared_memory),
                ("POST", f"/v2/{kind}/region/{{region}}/register", Scope.ADMIN, self.refuse_shared_memory),
                ("POST", f"/v2/{kind}/region/{{region}}/unregister", Scope.ADMIN, self.refuse_shared_memory),
            ]
        return table

    async def infer(self, call: Call) -> Answer:
        arrival_s = self._front.arrivals.of(call.headers)
        await self._front.enter(*_model(call), arrival_s)
        with self._front.buffers.hold() as hold:
            if call.body is not None:
                hold.add(len(call.body))
                return await self._infer(call, call.body, arrival_s)
            body = await read_body(call.receive, call.headers, self._limits, hold)
            with CancelOnDisconnect(call.receive):
                return await self._infer(call, body, arrival_s)

    async def _infer(self, call: Call, body: bytes, arrival_s: float) -> Answer:
        model, version = _model(call)
        decoded = await self._decode(call, model, version, body)
        request = InferRequest(
            model=model,
            version=version,
            id=decoded.id,
            inputs=decoded.inputs,
            datatypes=decoded.datatypes,
            outputs=decoded.outputs,
            parameters=decoded.parameters,
            contract=parse_contract(decoded.parameters, call.headers, tenant=call.caller.tenant),
            arrival_s=arrival_s,
            binary_outputs=decoded.binary_outputs,
            request_id=call.request_id,
        )
        response = await self._dataplane.infer(request)
        size = sum(output.array.nbytes for output in response.outputs)
        pieces, json_length = await off_loop(size, rest_codec.encode, response, decoded, self._nan_as_null)
        headers = ((b"server-timing", server_timing(response.parameters).encode()),)
        return await self._framed(call, pieces, json_length, headers)

    async def _decode(self, call: Call, model: str, version: str, body: bytes) -> rest_codec.DecodedBody:
        length = rest_codec.header_length(call.headers.get(rest_codec.LENGTH_HEADER), len(body))
        if length == 0:
            spec = self._dataplane.spec(model, version)
            return await off_loop(len(body), rest_codec.decode_raw, body, spec, self._limits)
        return await off_loop(len(body), rest_codec.decode, body, length, self._limits)

    async def _framed(
        self, call: Call, pieces: list[bytes], json_length: int | None, headers: tuple[tuple[bytes, bytes], ...]
    ) -> Answer:
        content_type = JSON
        if json_length is not None:
            content_type = b"application/octet-stream"
            headers += ((rest_codec.LENGTH_HEADER.encode(), b"%d" % json_length),)
        body = b"".join(pieces)
        encoding = accepted_encoding(call.headers.get("accept-encoding"), len(body), self._limits)
        if encoding is not None:
            body = await compress(body, encoding)
            headers += ((b"content-encoding", encoding.encode()), (b"vary", b"accept-encoding"))
        return Answer(body, 200, content_type, headers)

    async def live(self, call: Call) -> Answer:
        return Answer(b'{"live":true}')

    async def ready(self, call: Call) -> Answer:
        if not self._dataplane.ready():
            raise Unavailable("the service is not ready: starting or draining")
        return Answer(b'{"ready":true}')

    async def model_ready(self, call: Call) -> Answer:
        model, version = _model(call)
        self._dataplane.spec(model, version)
        if not self._dataplane.model_ready(model, version):
            raise Unavailable(f"model '{model}' is not ready: the service is starting or draining")
        return Answer(_json({"name": model, "ready": True}))

    async def server_metadata(self, call: Call) -> Answer:
        return Answer(self._server)

    async def metadata(self, call: Call) -> Answer:
        model, version = _model(call)
        return Answer(_json(model_metadata(self._dataplane.spec(model, version), self._dataplane.versions(model))))

    async def config(self, call: Call) -> Answer:
        return Answer(_json(self._dataplane.config(*_model(call))))

    async def statistics(self, call: Call) -> Answer:
        model, version = _model(call) if "model" in call.path else ("", "")
        return Answer(_json(statistics_json(self._dataplane.statistics(model, version))))

    async def index(self, call: Call) -> Answer:
        if "repository" in call.path:
            raise NotOffered("there is one model repository, without a name; use /v2/repository/index")
        only_ready = (await self._optional_object(call)).get("ready", False)
        if type(only_ready) is not bool:
            raise InvalidRequest("field 'ready': expected true or false")
        entries = self._dataplane.index(only_ready)
        return Answer(
            _json([{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in entries])
        )

    async def load(self, call: Call) -> Answer:
        parameters = (await self._optional_object(call)).get("parameters") or {}
        await self._dataplane.load(call.path["model"], list(parameters))
        return Answer()

    async def unload(self, call: Call) -> Answer:
        await self._optional_object(call)
        await self._dataplane.unload(call.path["model"])
        return Answer()

    async def log_settings(self, call: Call) -> Answer:
        return Answer(_json(self._dataplane.log_settings()))

    async def update_log_settings(self, call: Call) -> Answer:
        wanted = {key: value for key, value in (await self._optional_object(call)).items() if value is not None}
        return Answer(_json(self._dataplane.update_log_settings(wanted)))

    async def trace_settings(self, call: Call) -> Answer:
        return Answer(_json(_trace_json(self._dataplane.trace_settings(call.path.get("model", "")))))

    async def update_trace_settings(self, call: Call) -> Answer:
        wanted = await self._optional_object(call)
        settings = {key: _setting_values(key, value) for key, value in wanted.items() if value is not None}
        return Answer(_json(_trace_json(self._dataplane.update_trace_settings(settings, call.path.get("model", "")))))

    async def no_regions(self, call: Call) -> Answer:
        return Answer(b"[]")

    async def refuse_shared_memory(self, call: Call) -> Answer:
        raise NotOffered("shared memory is not offered; send the data in the request")

    async def _optional_object(self, call: Call) -> dict[str, Any]:
        body = await read_body(call.receive, call.headers, self._limits)
        if not body.strip():
            return {}
        value = read_json_object(body, self._limits)
        check_depth(value, self._limits)
        if not isinstance(value.get("parameters", {}), dict | None):
            raise InvalidRequest("field 'parameters': expected an object")
        return value


def _model(call: Call) -> tuple[str, str]:
    """Model name and version of the path; a version that no model can have is an unknown path."""
    version = call.path.get("version", "")
    if version and not _VERSION.fullmatch(version):
        raise NotFound(f"model version {version[:32]!r} is not found; versions are positive integers")
    return call.path["model"], version


def _setting_values(key: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        raise InvalidRequest(f"setting '{key[:64]}': expected a string, a list of strings or null")
    return values


def _trace_json(settings: dict[str, list[str]]) -> dict[str, Any]:
    """trace_level is a list, all others are single strings."""
    return {key: values if key == "trace_level" else values[0] for key, values in settings.items()}


def _json(value: Any) -> bytes:
    return orjson.dumps(value)
