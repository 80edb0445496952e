"""The seam through which logs and traces surround every request, whatever protocol brought it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

# (route or RPC, request id, lower-case headers or metadata) -> entered before authorization, left after the answer
Around = Callable[[str, str, Mapping[str, str]], AbstractContextManager[None]]

_NOTHING = nullcontext()


def nothing_around(name: str, request_id: str, headers: Mapping[str, str]) -> AbstractContextManager[None]:
    return _NOTHING
