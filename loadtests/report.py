"""Reports of a played scenario: one self-contained page, the same as JSON, the picture, and the schedule as a trace."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.answers import Outcome
from loadtests.page import page
from loadtests.picture import plot
from loadtests.play import Block, Played
from loadtests.records import latency_histogram
from loadtests.schedules import write_trace
from loadtests.tables import over, policies_of, ratios_of
from loadtests.verdict import checks, conclusion


def write(played: Played, folder: Path, command: str) -> Path:
    """Write NAME.html, .json, .png and .trace.jsonl (when requests were sent) into `folder`; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{played.scenario.name}-{played.model}"
    picture = folder / f"{name}.png"
    plot(played, picture)
    record = as_json(played, command)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_trace(played.blocks[0].run.intended, folder / f"{name}.trace.jsonl")
    target = folder / f"{name}.html"
    target.write_text(page(played, record, picture.read_bytes()), encoding="utf-8")
    return target


def as_json(played: Played, command: str) -> dict[str, Any]:
    yardstick = played.yardstick
    return {
        "scenario": played.scenario.name,
        "says": played.scenario.says,
        "model": played.model,
        "protocol": played.protocol,
        "command": command,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, python {platform.python_version()}",
        "deadline_s": yardstick.deadline_s,
        "capacity_rps": yardstick.capacity.rate,
        "closed_loop_rps": yardstick.capacity.closed_loop,
        "full_accuracy": yardstick.full_accuracy,
        "blocks": [_block(item) for item in played.blocks],
        "outcomes": {policy: asdict(played.outcomes(policy)) for policy in policies_of(played)},
        "on_time_while_over_capacity": {policy: _number(over(played, policy)) for policy in policies_of(played)},
        "ratios": {what: asdict(interval) for what, interval in ratios_of(played).items()},
        "disturbance": asdict(played.disturbance) if played.disturbance is not None else None,
        "checks": [{"claim": c.claim, "wanted": c.wanted, "got": c.got, "passed": c.passed} for c in checks(played)],
        "noisy": list(played.noisy),
        "conclusion": conclusion(played),
    }


def _block(item: Block) -> dict[str, Any]:
    memory = item.run.memory
    return {
        "policy": item.policy,
        "seed": item.seed,
        **item.summary.to_json(),
        "latency_hdr": latency_histogram(item.run.latency[item.run.outcome == Outcome.OK]).encode().decode(),
        "memory": None
        if memory is None
        else {
            "first_mib": memory.first,
            "peak_mib": memory.peak,
            "growth": _number(memory.growth),
            "at_s": [round(float(at), 2) for at in memory.at],
            "mib": [round(float(mib), 1) for mib in memory.mib],
        },
    }


def _number(value: float) -> float | None:
    """JSON has no nan."""
    return None if math.isnan(value) else value
