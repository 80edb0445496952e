"""HTTP by hand on a socket: bodies that no client library would send."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from tests.support.oip_server import OipServer


def connect(server: OipServer, timeout_s: float = 30.0) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.http_port), timeout_s)


def read_to_end(connection: socket.socket) -> bytes:
    """Whatever the server sends until it closes; a reset counts as a close."""
    parts: list[bytes] = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def exchange(server: OipServer, pieces: Iterable[bytes]) -> bytes:
    """Send pieces until the server stops taking them; returns its answer. The last request must ask to close."""
    with connect(server) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return read_to_end(connection)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
