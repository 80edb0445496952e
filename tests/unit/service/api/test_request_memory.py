"""The bytes that requests hold together are bounded, and given back whatever happens."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.buffers import OFF_LOOP_FROM_BYTES, Buffers, off_loop
from service.errors import Overloaded


@given(st.lists(st.lists(st.integers(0, 40), max_size=5), max_size=8))
def test_everything_is_given_back(requests: list[list[int]]) -> None:
    buffers = Buffers(100)
    for sizes in requests:
        try:
            with buffers.hold() as hold:
                for size in sizes:
                    hold.add(size)
                    assert buffers.held_bytes <= 100
        except Overloaded as error:
            assert sum(sizes) > 100
            assert error.reason == "memory"
        assert buffers.held_bytes == 0


def test_requests_share_the_bound() -> None:
    buffers = Buffers(100)
    with buffers.hold() as one, buffers.hold() as other:
        one.add(60)
        with pytest.raises(Overloaded):
            other.add(41)
        other.add(40)
    assert buffers.held_bytes == 0


async def test_only_large_work_leaves_the_loop() -> None:
    assert await off_loop(10, threading.current_thread) is threading.current_thread()
    assert await off_loop(OFF_LOOP_FROM_BYTES, threading.current_thread) is not threading.current_thread()
