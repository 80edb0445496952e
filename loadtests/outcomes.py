"""How the requests of a run ended: counted, and what the failures said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from loadtests.answers import Outcome
from loadtests.records import Run

LABELS = {
    "on_time": "on time",
    "late": "late",
    "refused": "refused",
    "expired": "expired",
    "error": "error",
    "lost": "no answer",
}
MOST_FREQUENT = 3


@dataclass(frozen=True, slots=True)
class Message:
    """One text of a failure, and how many requests got it. outcome: error or lost."""

    outcome: str
    text: str
    count: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Requests by their end; each is in exactly one count, see LABELS. messages: the most frequent of each failure."""

    on_time: int
    late: int
    refused: int
    expired: int
    error: int
    lost: int
    messages: tuple[Message, ...] = ()

    @property
    def failed(self) -> int:
        """Errors and requests without an answer: what no client can do anything about."""
        return self.error + self.lost


def outcomes_of(runs: Iterable[Run]) -> Outcomes:
    """The counts of all runs together."""
    counts: Counter[str] = Counter()
    texts: Counter[tuple[Outcome, str]] = Counter()
    for run in runs:
        on_time = int(run.on_time.sum())
        counts["on_time"] += on_time
        counts["late"] += int((run.outcome == Outcome.OK).sum()) - on_time
        for outcome in (Outcome.REFUSED, Outcome.EXPIRED, Outcome.ERROR, Outcome.LOST):
            counts[outcome.name.lower()] += int((run.outcome == outcome).sum())
        for outcome, said, count in run.messages:
            texts[outcome, said] += count
    messages = []
    for failure in (Outcome.ERROR, Outcome.LOST):
        of_it = Counter({text: count for (outcome, text), count in texts.items() if outcome is failure})
        messages += [Message(failure.name.lower(), text, count) for text, count in of_it.most_common(MOST_FREQUENT)]
    return Outcomes(**{name: counts[name] for name in LABELS}, messages=tuple(messages))
