"""How the requests of a run ended: counted, and what those were told that were not served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.answers import FAILED, TURNED_AWAY, Outcome
from loadtests.records import Run

LABELS = {
    "on_time": "on time",
    "late": "late",
    "refused": "refused",
    "expired": "expired",
    "error": "error",
    "lost": "no answer",
}
NOT_SERVED = (*FAILED, *TURNED_AWAY)
MOST_FREQUENT = 3


@dataclass(frozen=True, slots=True)
class Message:
    """One text, and how many requests got it instead of an answer. outcome: a key of LABELS."""

    outcome: str
    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests by their end; each is in exactly one count, see LABELS. messages: the most frequent of each end."""

    on_time: int
    late: int
    refused: int
    expired: int
    error: int
    lost: int
    messages: tuple[Message, ...] = ()

    @property
    def failed(self) -> int:
        """Errors and requests without an answer."""
        return sum(getattr(self, outcome.name.lower()) for outcome in FAILED)


def ends_of(run: Run) -> dict[str, NDArray[np.bool_]]:
    """The keys of LABELS -> which requests ended so."""
    served = {"on_time": run.on_time, "late": (run.outcome == Outcome.OK) & ~run.on_time}
    return served | {outcome.name.lower(): run.outcome == outcome for outcome in NOT_SERVED}


def outcomes_of(runs: Iterable[Run]) -> Outcomes:
    """The counts of all runs together."""
    counts: Counter[str] = Counter(dict.fromkeys(LABELS, 0))
    texts: dict[Outcome, Counter[str]] = {outcome: Counter() for outcome in NOT_SERVED}
    for run in runs:
        counts.update({name: int(which.sum()) for name, which in ends_of(run).items()})
        for outcome, said, count in run.messages:
            texts[outcome][said] += count
    messages = tuple(
        Message(outcome.name.lower(), said, count)
        for outcome in NOT_SERVED
        for said, count in texts[outcome].most_common(MOST_FREQUENT)
    )
    return Outcomes(**counts, messages=messages)
