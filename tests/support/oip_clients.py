"""The four clients of tritonclient behind one blocking face, so that each test runs over all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http
from tritonclient.grpc import aio as triton_grpc_aio
from tritonclient.http import aio as triton_http_aio
from tritonclient.utils import np_to_triton_dtype

KINDS = ("http", "http.aio", "grpc", "grpc.aio")
_MODULES = {
    "http": triton_http,
    "http.aio": triton_http_aio,
    "grpc": triton_grpc,
    "grpc.aio": triton_grpc_aio,
}


class OipClient:
    """`call` reaches any method of the client; `infer` builds the tensors. headers go with every call."""

    def __init__(
        self, kind: str, http_url: str, grpc_url: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        self.kind = kind
        self.over_http = kind.startswith("http")
        self._module = _MODULES[kind]
        self._headers = dict(headers) if headers else None
        self._runner = asyncio.Runner() if kind.endswith("aio") else None
        self._client = self._run(self._make(http_url if self.over_http else grpc_url, more))

    def close(self) -> None:
        self._run(self._client.close())
        if self._runner is not None:
            self._runner.close()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("headers", self._headers)
        return self._run(getattr(self._client, method)(*args, **kwargs))

    def as_json(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The answer as JSON on both transports."""
        if not self.over_http:
            kwargs["as_json"] = True
        return self.call(method, *args, **kwargs)

    def infer(self, model: str, arrays: Mapping[str, Any], outputs: Sequence[Any] | None = None, **more: Any) -> Any:
        """Arrays as binary tensors; the answer as the client's InferResult."""
        inputs = [self.input(name, array) for name, array in arrays.items()]
        return self.call("infer", model, inputs, outputs=outputs, **more)

    def input(self, name: str, array: Any, datatype: str | None = None, **more: Any) -> Any:
        made = self._module.InferInput(name, list(array.shape), datatype or np_to_triton_dtype(array.dtype))
        made.set_data_from_numpy(array, **more)
        return made

    def output(self, name: str, **more: Any) -> Any:
        if not self.over_http:
            more.pop("binary_data", None)
        return self._module.InferRequestedOutput(name, **more)

    def parameters(self, result: Any) -> dict[str, Any]:
        """The response parameters as plain values."""
        if self.over_http:
            return dict(result.get_response()["parameters"])
        found = result.get_response().parameters
        return {key: getattr(found[key], found[key].WhichOneof("parameter_choice")) for key in found}

    def response_id(self, result: Any) -> str:
        response = result.get_response()
        return str(response.get("id", "") if self.over_http else response.id)

    async def _make_async(self, url: str, more: Mapping[str, Any]) -> Any:
        return self._module.InferenceServerClient(url, **more)

    def _make(self, url: str, more: Mapping[str, Any]) -> Any:
        if self._runner is not None:
            return self._make_async(url, more)
        return self._module.InferenceServerClient(url, **more)

    def _run(self, value: Any) -> Any:
        return self._runner.run(value) if self._runner is not None and asyncio.iscoroutine(value) else value


def int32(*values: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.array([values], dtype=np.int32)
