"""What one decision of the budget law costs: `python -m benchmarks.decision` (seconds; the law is pure Python).

CPU time of the calling thread, so that what else a machine does shows as little as it can.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from service.control.edf import EdfQueue
from service.control.policy import DrainFeasible
from service.control.types import BatchDone, QueuedItem, ReplicaView
from service.simulator.plant import reference_plant

REPEATS = 4000


def percentiles_us(call: Callable[[], object], repeats: int = REPEATS) -> dict[str, float]:
    """p50 and p99 of single calls, microseconds."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    times.sort()
    return {"p50_us": 1e6 * times[repeats // 2], "p99_us": 1e6 * times[int(0.99 * repeats)]}


def deadline_s(queued: int) -> float:
    return 0.05 + 0.005 * queued


def items_of(queued: int, mixed: bool) -> list[QueuedItem]:
    """A backlog that needs a budget around the middle; mixed: a fifth of it insists on half the budget."""
    deadline = deadline_s(queued)
    floors = [0.5 if mixed and i % 5 == 0 else 0.1 for i in range(queued)]
    return [QueuedItem("m0", deadline + 1e-4 * i, 0.0, i, floor=floor) for i, floor in enumerate(floors)]


def view_of(items: Sequence[QueuedItem], models: int) -> ReplicaView:
    queues = {f"m{k}": EdfQueue([replace(item, model=f"m{k}") for item in items[k::models]]) for k in range(models)}
    return ReplicaView(0.0, queues)


def law_of(models: int, queued: int) -> DrainFeasible:
    """A law that knows its models well; their deadline is that of the queued items."""
    plan = replace(reference_plant().plan, default_deadline_s=deadline_s(queued))
    law = DrainFeasible([replace(plan, name=f"m{k}") for k in range(models)])
    for k in range(models):
        for _ in range(300):
            law.on_batch_done(BatchDone(f"m{k}", 1, 0.01, 0.01, 0.0))
    return law


def main() -> None:
    records = []
    for queued in (1, 8, 32, 128, 512):
        for kind, models, mixed in (("alike", 1, False), ("mixed floors", 1, True), ("three models", 3, False)):
            law, view = law_of(models, queued), view_of(items_of(queued, mixed), models)
            arrival = QueuedItem("m0", 10.0, 0.0, 10**6, floor=0.1)
            record = {"queued": queued, "kind": kind, **percentiles_us(lambda law=law, view=view: law.decide(view))}
            admit = percentiles_us(lambda law=law, view=view, item=arrival: law.admit(view, item), REPEATS // 4)
            record |= {f"admit_{name}": value for name, value in admit.items()}
            records.append(record)
            print(
                f"{queued:4d} queued, {kind:13s} decide p50 {record['p50_us']:7.1f} p99 {record['p99_us']:7.1f} us,"
                f" admit p50 {record['admit_p50_us']:7.1f} p99 {record['admit_p99_us']:7.1f} us"
            )
    if "--json" in sys.argv:
        print(json.dumps(records))


if __name__ == "__main__":
    main()
