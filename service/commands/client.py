"""A small client for people: one row in, what it means and what it cost out; over tritonclient, HTTP or gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from models.interface import Arrays, ModelSpec, TensorSpec

DEFAULT_PORTS = {"http": 8000, "https": 8000, "grpc": 8001, "grpcs": 8001}
MAX_CLASSES = 1000


class ClientError(Exception):
    """The service could not be reached or refused; the text is for people."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service listens. scheme: http, https, grpc or grpcs."""

    scheme: str
    address: str

    @staticmethod
    def parse(url: str) -> Target:
        """`HOST:PORT`, `http://...`, `https://...`, `grpc://...` or `grpcs://...`. Raises ClientError on others."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == -1:
            raise ClientError(f"url {url!r}: expected http://HOST:PORT or grpc://HOST:PORT (https, grpcs for TLS)")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return Target(parts.scheme, f"{host}:{port or DEFAULT_PORTS[parts.scheme]}{parts.path.rstrip('/')}")

    @property
    def grpc(self) -> bool:
        return self.scheme.startswith("grpc")

    @property
    def secure(self) -> bool:
        return self.scheme in ("https", "grpcs")


@dataclass(frozen=True, slots=True)
class Scored:
    """One class of a classifier, as the classification extension answers it. label: "" when the model has none."""

    score: float
    index: int
    label: str


@dataclass(frozen=True, slots=True)
class Answer:
    """classes: best first, empty unless the model names its classes. parameters: budget, activity, MACs, times."""

    outputs: Arrays
    classes: tuple[Scored, ...]
    parameters: Mapping[str, Any]


class _Wire(Protocol):
    """What HTTP and gRPC do differently."""

    def metadata(self, model: str) -> Mapping[str, Any]: ...

    def infer(self, spec: ModelSpec, inputs: Arrays, outputs: Mapping[str, int], options: Mapping[str, Any]) -> Any: ...

    def parameters(self, result: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Client:
    """`with Client(Target.parse(url)) as client: client.infer(spec, inputs)`. Raises ClientError for every failure."""

    def __init__(self, target: Target, api_key: str = "", timeout_s: float = 60.0) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._target = target
        self._wire: _Wire = (_Grpc if target.grpc else _Http)(target, headers, timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wire.close()

    def spec(self, model: str) -> ModelSpec:
        """What the service declares about the model; shapes without the batch dimension."""
        raw = self._call(self._wire.metadata, model)
        inputs, outputs = (tuple(_tensor(item) for item in raw.get(side, ())) for side in ("inputs", "outputs"))
        version = list(raw.get("versions", ["1"]))[-1]
        return ModelSpec(model, version, str(raw.get("platform", "")), inputs, outputs, 0, 0.0)

    def infer(self, spec: ModelSpec, inputs: Arrays, parameters: Mapping[str, Any] | None = None) -> Answer:
        """inputs: one row, with the batch dimension. parameters: quality, priority, ... of the request."""
        first, options = spec.outputs[0], dict(parameters or {})
        wanted = {item.name: 0 for item in spec.outputs}
        if (
            first.datatype.startswith(("FP", "INT", "UINT"))
            and len(first.shape) == 1
            and 1 < first.shape[0] <= MAX_CLASSES
        ):
            result = self._call(self._wire.infer, spec, inputs, wanted | {first.name: first.shape[0]}, options)
            classes = tuple(_scored(item) for item in result.as_numpy(first.name).reshape(-1))
            if all(item.label for item in classes):
                return Answer(_outputs(result, wanted), classes, self._wire.parameters(result))
        result = self._call(self._wire.infer, spec, inputs, wanted, options)
        return Answer(_outputs(result, wanted), (), self._wire.parameters(result))

    def _call(self, method: Any, *arguments: Any) -> Any:
        from geventhttpclient.response import HTTPConnectionClosed
        from tritonclient.utils import InferenceServerException

        try:
            return method(*arguments)
        except InferenceServerException as error:
            raise ClientError(error.message() or str(error)) from None
        except (OSError, TimeoutError, HTTPConnectionClosed) as error:
            raise ClientError(f"no service at {self._target.address} ({error})") from None


class _Http:
    # NOTE: headers are copied for each call: tritonclient writes its own into the mapping it is given
    def __init__(self, target: Target, headers: dict[str, str], timeout_s: float) -> None:
        import tritonclient.http as library

        self._library, self._headers = library, headers
        self._client = library.InferenceServerClient(
            target.address, ssl=target.secure, network_timeout=timeout_s, connection_timeout=timeout_s
        )

    def metadata(self, model: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._client.get_model_metadata(model, headers=dict(self._headers))
        return found

    def infer(self, spec: ModelSpec, inputs: Arrays, outputs: Mapping[str, int], options: Mapping[str, Any]) -> Any:
        wanted = [self._library.InferRequestedOutput(name, class_count=k) for name, k in outputs.items()]
        return self._client.infer(
            spec.name,
            _tensors(self._library, spec, inputs),
            outputs=wanted,
            headers=dict(self._headers),
            **_split(options),
        )

    def parameters(self, result: Any) -> dict[str, Any]:
        return dict(result.get_response().get("parameters", {}))

    def close(self) -> None:
        self._client.close()


class _Grpc:
    def __init__(self, target: Target, headers: dict[str, str], timeout_s: float) -> None:
        import tritonclient.grpc as library

        self._library, self._headers, self._timeout_s = library, headers, timeout_s
        self._client = library.InferenceServerClient(target.address, ssl=target.secure)

    def metadata(self, model: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._client.get_model_metadata(
            model, headers=dict(self._headers), as_json=True, client_timeout=self._timeout_s
        )
        return found

    def infer(self, spec: ModelSpec, inputs: Arrays, outputs: Mapping[str, int], options: Mapping[str, Any]) -> Any:
        wanted = [self._library.InferRequestedOutput(name, class_count=k) for name, k in outputs.items()]
        return self._client.infer(
            spec.name,
            _tensors(self._library, spec, inputs),
            outputs=wanted,
            headers=dict(self._headers),
            client_timeout=self._timeout_s,
            **_split(options),
        )

    def parameters(self, result: Any) -> dict[str, Any]:
        found = result.get_response().parameters
        return {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in found.items()}

    def close(self) -> None:
        self._client.close()


def _split(options: Mapping[str, Any]) -> dict[str, Any]:
    """tritonclient takes timeout and priority by argument and refuses them among the custom parameters."""
    named = {name: options[name] for name in ("timeout", "priority") if name in options}
    return {**named, "parameters": {name: value for name, value in options.items() if name not in named} or None}


def _tensors(library: Any, spec: ModelSpec, inputs: Arrays) -> list[Any]:
    tensors = []
    for item in spec.inputs:
        tensor = library.InferInput(item.name, list(inputs[item.name].shape), item.datatype)
        tensor.set_data_from_numpy(inputs[item.name])
        tensors.append(tensor)
    return tensors


def _tensor(raw: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(raw["name"]), str(raw["datatype"]), tuple(int(length) for length in raw["shape"][1:]))


def _scored(entry: bytes) -> Scored:
    score, index, label = (*entry.decode().split(":", 2), "")[:3]
    return Scored(float(score), int(index), label)


def _outputs(result: Any, wanted: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(result.as_numpy(name)) for name in wanted}
