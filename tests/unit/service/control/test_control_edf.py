"""EdfQueue: order, positions, what its items cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.control.edf import EdfQueue
from service.control.kinds import MAX_KINDS
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


def counted(queue):
    return queue.kinds and [queue.kinds.bounds[code] for code in queue.kinds.codes]


def test_kinds_are_counted_while_all_items_have_one_row_and_may_share_a_batch():
    queue = EdfQueue([item(1, 1.0), item(2, 2.0, priority=HIGH)])
    assert len(queue.kinds.bounds) == 1
    other = item(3, 1.5, floor=0.5)
    assert EdfQueue().kinds_with(other) == EdfQueue([other]).kinds
    queue.add(other)
    assert counted(queue) == [(0.0, 1.0), (0.5, 1.0), (0.0, 1.0)]
    queue.remove(other)
    assert len(queue.kinds.bounds) == 1
    assert EdfQueue([item(1, rows=2)]).kinds is None
    assert EdfQueue([item(1, group="a"), item(2, group="b")]).kinds is None
    assert EdfQueue([item(1, group="a")]).kinds_with(item(2, group="b")) is None


def test_more_kinds_than_it_pays_to_count_are_looked_at_until_they_have_gone():
    items = [item(i, 1.0 + i, floor=0.01 * i) for i in range(MAX_KINDS + 1)]
    queue = EdfQueue(items)
    assert queue.kinds is None
    queue.remove(items[-1])
    assert counted(queue) == [(one.floor, 1.0) for one in items[:-1]]
    assert queue.kinds_with(items[-1]) is None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 14)), max_size=80))
def test_the_codes_always_describe_the_items_in_their_order(steps):
    queue, number = EdfQueue(), 0
    for add, where, kind in steps:
        if add or not queue:
            number += 1
            new = item(number, float(where), floor=0.05 * kind)
            expected = queue.kinds_with(new)
            queue.add(new)
            if expected is not None:
                assert [expected.bounds[code] for code in expected.codes] == [(i.floor, i.ceiling) for i in queue]
        else:
            queue.remove(queue.items[where % len(queue)])
        if not queue:
            assert queue.kinds is None
        elif queue.kinds is not None:
            assert counted(queue) == [(entry.floor, entry.ceiling) for entry in queue]
        else:  # too many kinds, or an item that came when there were
            assert number > MAX_KINDS


def test_expired_leaves_best_effort_alone():
    queue = EdfQueue([item(1, 0.5), item(2, 0.6, best_effort=True), item(3, 2.0)])
    assert [entry.sequence for entry in queue.expired(1.0)] == [1]


def test_priority_classes():
    assert [priority_class(p) for p in (1, 0, 2, 3, 99)] == [HIGH, NORMAL, NORMAL, LOW, LOW]
