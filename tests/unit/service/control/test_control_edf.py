"""EdfQueue: order, positions, what is alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.control.edf import EdfQueue
from service.control.types import HIGH, LOW, NORMAL, QueuedItem, priority_class


def item(sequence, deadline=1.0, **kwargs):
    return QueuedItem("m", deadline, 0.0, sequence, **kwargs)


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0]), max_size=30))
def test_items_come_in_order_of_deadline_then_arrival(deadlines):
    queue = EdfQueue(item(i, deadline) for i, deadline in enumerate(deadlines))
    keys = [(entry.deadline_s, entry.sequence) for entry in queue]
    assert keys == sorted(keys)
    assert queue.rows == len(queue) == len(deadlines)


def test_a_batch_leaves_from_the_head_or_from_anywhere():
    queue = EdfQueue(item(i) for i in range(5))
    queue.take([queue.items[0], queue.items[1]])
    queue.take([queue.items[2], queue.items[0]])
    assert [entry.sequence for entry in queue] == [3]
    assert queue.rows == 1


def test_removing_what_is_not_there_is_an_error():
    queue = EdfQueue([item(1)])
    with pytest.raises(KeyError):
        queue.remove(item(2))
    assert queue.position(item(1)) == 0


def test_alike_means_one_row_and_the_same_bounds_and_group():
    queue = EdfQueue([item(1, 1.0), item(2, 2.0, priority=HIGH)])
    assert queue.alike
    other = item(3, floor=0.5)
    queue.add(other)
    assert not queue.alike
    queue.remove(other)
    assert queue.alike
    assert not EdfQueue([item(1, rows=2)]).alike


def test_expired_leaves_best_effort_alone():
    queue = EdfQueue([item(1, 0.5), item(2, 0.6, best_effort=True), item(3, 2.0)])
    assert [entry.sequence for entry in queue.expired(1.0)] == [1]


def test_priority_classes():
    assert [priority_class(p) for p in (1, 0, 2, 3, 99)] == [HIGH, NORMAL, NORMAL, LOW, LOW]
