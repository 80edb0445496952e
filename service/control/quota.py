"""Tenants pay for MACs, not for requests: one token bucket a tenant."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_RETRY_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Quota:
    """macs_per_s: what a tenant may spend on average. burst_s: seconds of it that may be saved up."""

    macs_per_s: float
    burst_s: float = 2.0

    def __post_init__(self) -> None:
        if not (self.macs_per_s > 0 and self.burst_s > 0):
            raise ValueError(f"a quota must be above 0, got {self.macs_per_s} MACs/s over {self.burst_s} s")

    @property
    def burst(self) -> float:
        return self.macs_per_s * self.burst_s


@dataclass(frozen=True, slots=True)
class Quotas:
    """default: for tenants without an entry of their own; None = they are not limited."""

    default: Quota | None = None
    tenants: Mapping[str, Quota] = field(default_factory=dict)
    max_tenants: int = 10_000

    def of(self, tenant: str) -> Quota | None:
        return self.tenants.get(tenant, self.default)


@dataclass(slots=True)
class _Bucket:
    macs: float
    at_s: float


class MacBuckets:
    """Who has compute left. A request is tested and charged with what it is expected to cost, then settled.

    The balance may go below zero, by what inputs cost more than expected: a tenant whose inputs are dense waits
    longer for its own next request, and nobody else's budget falls. Memory is bounded: of tenants beyond
    `max_tenants` the one seen longest ago is forgotten, with a full bucket when it comes back.
    """

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admit(self, tenant: str, expected_macs: float, now_s: float) -> float:
        """Charge and return 0.0, or charge nothing and return the seconds after which to come back."""
        quota = self._quotas.of(tenant)
        if quota is None:
            return 0.0
        bucket = self._refilled(tenant, quota, now_s)
        needed = min(expected_macs, quota.burst)  # a request above the whole burst passes when the bucket is full
        if bucket.macs >= needed:
            bucket.macs -= expected_macs
            return 0.0
        return min(MAX_RETRY_AFTER_S, (needed - bucket.macs) / quota.macs_per_s)

    def settle(self, tenant: str, expected_macs: float, actual_macs: float, now_s: float) -> None:
        """Correct the charge by what the kernels counted; 0 for a request that was dropped before it ran."""
        quota = self._quotas.of(tenant)
        if quota is not None:
            bucket = self._refilled(tenant, quota, now_s)
            bucket.macs = min(quota.burst, bucket.macs + expected_macs - actual_macs)

    def balance(self, tenant: str, now_s: float) -> float:
        """MACs left; infinite for a tenant without a quota."""
        quota = self._quotas.of(tenant)
        return float("inf") if quota is None else self._refilled(tenant, quota, now_s).macs

    def _refilled(self, tenant: str, quota: Quota, now_s: float) -> _Bucket:
        bucket = self._buckets.get(tenant)
        if bucket is None:
            while len(self._buckets) >= self._quotas.max_tenants:
                self._buckets.popitem(last=False)
            bucket = self._buckets[tenant] = _Bucket(quota.burst, now_s)
        elapsed = max(0.0, now_s - bucket.at_s)
        bucket.macs = min(quota.burst, bucket.macs + elapsed * quota.macs_per_s)
        bucket.at_s = max(bucket.at_s, now_s)
        self._buckets.move_to_end(tenant)
        return bucket
