"""How much one client may ask for. Every limit is checked before memory is spent on what it bounds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TypeVar

Number = TypeVar("Number", int, float)


def _bound(default: Number, unit: str, meaning: str) -> Number:
    bound: Number = field(default=default, metadata={"unit": unit, "meaning": meaning})
    return bound


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on requests. Each field's metadata says its unit and its meaning; `swan settings` prints them."""

    max_body_bytes: int = _bound(64 << 20, "bytes", "An HTTP body or gRPC message, as sent and after decompression.")
    max_buffered_bytes: int = _bound(
        1 << 30, "bytes", "All HTTP bodies and gRPC tensors in memory at once; beyond it requests are refused."
    )
    max_json_bytes: int = _bound(16 << 20, "bytes", "The JSON part of a body.")
    max_json_depth: int = _bound(100, "levels", "Nesting of JSON.")
    max_inflate_ratio: int = _bound(
        200, "times", "Decompressed over compressed size, looked at from the first MiB of output on."
    )
    max_inputs: int = _bound(256, "tensors", "Inputs of a request.")
    max_outputs: int = _bound(256, "tensors", "Outputs that a request asks for.")
    max_dims: int = _bound(16, "dimensions", "Dimensions of a tensor.")
    max_dim: int = _bound(2**31 - 1, "elements", "The largest size of one dimension.")
    max_id_chars: int = _bound(256, "characters", "A request's `id`.")
    max_parameters: int = _bound(64, "parameters", "Parameters of a request or of one of its tensors.")
    max_parameter_chars: int = _bound(4096, "characters", "A parameter's name, and its value if that is text.")
    max_chunks: int = _bound(65536, "pieces", "Pieces an HTTP body may come in.")
    max_header_bytes: int = _bound(65536, "bytes", "All headers of a request; metadata of an RPC.")
    max_connections: int = _bound(2048, "connections", "Open HTTP connections, where this process owns the port.")
    max_concurrent_streams: int = _bound(
        1024, "RPCs", "RPCs at once on one gRPC connection, where this process owns the port."
    )
    max_stream_requests: int = _bound(64, "requests", "Requests of one gRPC stream in work at once.")
    header_timeout_s: float = _bound(
        10.0, "seconds", "From the connection, or the next byte after an answer, to the end of the headers."
    )
    body_timeout_s: float = _bound(30.0, "seconds", "The longest silence inside a body.")
    turn_patience_s: float = _bound(
        0.2, "seconds", "The longest wait to be read at all, while more arrives than can be read."
    )
    compress_min_bytes: int = _bound(1024, "bytes", "Smaller answers are never compressed.")
    compress_max_bytes: int = _bound(8 << 20, "bytes", "Larger answers are never compressed.")

    def __post_init__(self) -> None:
        for bound in fields(self):
            value = getattr(self, bound.name)
            if not value > 0:
                raise ValueError(f"{bound.name}: expected a number above 0 (default {bound.default}), got {value}")
