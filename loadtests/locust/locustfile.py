"""Load on one model with real inputs for Locust: late answers fail, budget and accuracy are in the closing summary.

python -m loadtests.export --model fashion-resnet --out requests.json
SWAN_REQUESTS=requests.json locust -f loadtests/locust/locustfile.py --headless -u 200 -r 50 -t 30s -H http://127.0.0.1:8000

Locust's users are a closed loop: each waits for its answer before it asks again. For deadlines under overload prefer
`swan loadtest` or loadtests/k6, which send at their intended times whatever became of the earlier requests.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant_throughput, events, task

EXPORTED = json.loads(Path(os.environ.get("SWAN_REQUESTS", "requests.json")).read_text(encoding="utf-8"))
TURN = itertools.count()
SEEN: Counter[str] = Counter()


class Client(FastHttpUser):
    """One client that asks SWAN_RATE times a second (default 5) at most."""

    wait_time = constant_throughput(float(os.environ.get("SWAN_RATE", "5")))

    @task
    def infer(self) -> None:
        request = EXPORTED["requests"][next(TURN) % len(EXPORTED["requests"])]
        key = os.environ.get("SWAN_API_KEY")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        with self.client.post(EXPORTED["path"], json=request["body"], headers=headers, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"refused: {response.status_code}")
                return
            elapsed_ms = response.request_meta["response_time"]
            if elapsed_ms > EXPORTED["deadline_ms"]:
                response.failure("late")
            note(response.json(), request["label"])


def note(answer: dict[str, Any], label: int | None) -> None:
    """Count what an answer was and what it cost."""
    SEEN["answers"] += 1
    SEEN["budget_permille"] += round(1000 * answer["parameters"]["quality_budget"])
    if label is not None:
        scores = answer["outputs"][0]["data"]
        SEEN["right"] += scores.index(max(scores)) == label


@events.quitting.add_listener
def summary(environment: Any, **_: Any) -> None:
    if count := SEEN["answers"]:
        mean_budget, right = SEEN["budget_permille"] / count / 1000, SEEN["right"] / count
        print(f"answers {count}, mean budget {mean_budget:.3f}, right {right:.4f}")  # noqa: T201 - Locust's own way
