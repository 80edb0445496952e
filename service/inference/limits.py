"""How much one client may ask for. Every limit is checked before memory is spent on what it bounds."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on requests; sizes in bytes, times in seconds.

    max_body_bytes: an HTTP body or gRPC message, as sent and after decompression. max_json_bytes: its JSON part.
    max_buffered_bytes: all HTTP bodies and gRPC tensors in memory at once; beyond it requests are refused as overload.
    max_inflate_ratio: decompressed over compressed size, looked at from the first MiB of output on.
    max_dim: the largest size of one dimension. max_chunks: pieces an HTTP body may come in.
    header_timeout_s: from the connection (or the last answer's next byte) to the end of the headers.
    body_timeout_s: the longest silence inside a body. max_stream_requests: requests of one gRPC stream in work at once.
    turn_patience_s: the longest wait to be read at all, while more arrives than can be read.
    compress_min_bytes, compress_max_bytes: answers outside this range are never compressed.
    """

    max_body_bytes: int = 64 << 20
    max_buffered_bytes: int = 1 << 30
    max_json_bytes: int = 16 << 20
    max_json_depth: int = 100
    max_inflate_ratio: int = 200
    max_inputs: int = 256
    max_outputs: int = 256
    max_dims: int = 16
    max_dim: int = 2**31 - 1
    max_id_chars: int = 256
    max_parameters: int = 64
    max_parameter_chars: int = 4096
    max_chunks: int = 65536
    max_header_bytes: int = 65536
    max_connections: int = 2048
    max_concurrent_streams: int = 1024
    max_stream_requests: int = 64
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    turn_patience_s: float = 0.2
    compress_min_bytes: int = 1024
    compress_max_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"{field.name}: expected a number above 0 (default {field.default}), got {value}")
