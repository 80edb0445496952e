"""What else a machine does while a test runs on it: reasons not to believe what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil

from loadtests.statistics import sleep_jitter_p99_s

MAX_JITTER_SHARE = 0.2  # of the deadline
MAX_STOLEN = 0.05  # of the CPU time


class MachineNoise:
    """Looked at after the search for the capacity, and around each block. times, jitter: ways to look, for tests."""

    def __init__(
        self,
        times: Callable[[], Any] = psutil.cpu_times,
        jitter: Callable[[], float] = sleep_jitter_p99_s,
    ) -> None:
        self._times, self._jitter = times, jitter
        self._before = times()
        self.jitter_s = jitter()
        self.stolen = 0.0

    def look(self) -> None:
        """Keep the worst since the last look. stolen: share of the CPU time that the hypervisor gave to others."""
        now, before = self._times(), self._before
        self._before = now
        spent = sum(now) - sum(before)
        if spent > 0.0:
            taken = getattr(now, "steal", 0.0) - getattr(before, "steal", 0.0)  # Linux alone counts it
            self.stolen = max(self.stolen, taken / spent)
        self.jitter_s = max(self.jitter_s, self._jitter())

    def reasons(self, deadline_s: float) -> list[str]:
        found = []
        if self.jitter_s > MAX_JITTER_SHARE * deadline_s:
            found.append(
                f"this machine wakes a sleeping thread up to {self.jitter_s * 1e3:.1f} ms late (p99), over a fifth of "
                f"the {deadline_s * 1e3:.0f} ms deadline: other work runs beside the test"
            )
        if self.stolen > MAX_STOLEN:
            found.append(f"the hypervisor gave {self.stolen:.0%} of this machine's CPU time to others during the test")
        return found
