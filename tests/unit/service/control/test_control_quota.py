"""Token buckets in MACs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.control.quota import MacBuckets, Quota, Quotas


def test_a_tenant_may_spend_its_burst_and_then_its_rate():
    buckets = MacBuckets(Quotas(Quota(macs_per_s=100.0, burst_s=2.0)))
    assert [buckets.admit("a", 100.0, 0.0) for _ in range(2)] == [0.0, 0.0]
    assert buckets.admit("a", 50.0, 0.0) == pytest.approx(0.5)
    assert buckets.admit("a", 50.0, 0.5) == 0.0
    assert buckets.admit("b", 150.0, 0.5) == 0.0


def test_dense_inputs_are_paid_by_the_tenant_that_sent_them():
    buckets = MacBuckets(Quotas(Quota(100.0)))
    assert buckets.admit("dense", 50.0, 0.0) == 0.0
    buckets.settle("dense", 50.0, 450.0, 0.0)
    assert buckets.balance("dense", 0.0) == -250.0
    assert buckets.admit("dense", 50.0, 0.0) == pytest.approx(3.0)
    assert buckets.balance("other", 0.0) == 200.0


def test_a_dropped_request_gets_its_charge_back():
    buckets = MacBuckets(Quotas(Quota(100.0)))
    buckets.admit("a", 150.0, 0.0)
    buckets.settle("a", 150.0, 0.0, 0.0)
    assert buckets.balance("a", 0.0) == 200.0


def test_a_request_above_the_burst_passes_when_the_bucket_is_full():
    buckets = MacBuckets(Quotas(Quota(100.0)))
    assert buckets.admit("a", 1000.0, 0.0) == 0.0
    assert buckets.admit("a", 1000.0, 1.0) > 5.0
    assert buckets.admit("a", 1.0, 1e6) == 0.0


def test_tenants_without_a_quota_and_with_their_own():
    buckets = MacBuckets(Quotas(None, {"small": Quota(1.0)}))
    assert buckets.admit("free", 1e12, 0.0) == 0.0
    assert buckets.balance("free", 0.0) == float("inf")
    buckets.settle("free", 1.0, 2.0, 0.0)
    assert buckets.admit("small", 2.0, 0.0) == 0.0
    assert buckets.admit("small", 1.0, 0.0) == 1.0


def test_memory_is_bounded_whatever_names_are_invented():
    buckets = MacBuckets(Quotas(Quota(1.0), max_tenants=10))
    buckets.admit("first", 2.0, 0.0)
    for i in range(100):
        buckets.admit(f"tenant-{i}", 1.0, 0.0)
    assert len(buckets._buckets) == 10
    assert buckets.balance("first", 0.0) == 2.0


def test_a_quota_of_nothing_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        Quota(0.0)


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 500.0)), max_size=60))
def test_no_tenant_spends_more_than_its_burst_and_rate(steps):
    buckets, now, spent = MacBuckets(Quotas(Quota(100.0, 2.0))), 0.0, 0.0
    for wait, macs in steps:
        now += wait
        if buckets.admit("a", macs, now) == 0.0:
            spent += macs
    assert spent <= 200.0 + 100.0 * now + 500.0
