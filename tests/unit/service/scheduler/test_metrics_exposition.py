"""What a scrape shows: exact sums over processes, dead ones included, Triton's names, and not too many series."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.exposition import render
from service.telemetry.metrics import Metrics
from service.telemetry.model_metrics import BatchCost, ControllerState, ModelMetrics, Served
from service.telemetry.triton_names import triton_text

STATE = ControllerState(0.5, 0.1, 1.2, 0.05, 3, 0.01, 100.0, "floor", "auto")
REPLICA = """
import sys
from prometheus_client import CollectorRegistry
from service.telemetry.metrics import Metrics
from service.telemetry.model_metrics import ControllerState, ModelMetrics, Served
model = ModelMetrics(Metrics(CollectorRegistry(), [0.3]), "m", "1")
macs = int(sys.argv[1])
model.count_served([Served("normal", 0.01, 0.02, True, 0.5, 0.5, macs, 2 * macs, 0.9)])
model.set_controller(ControllerState(0.5, 0.1, 1.2, 0.05, macs, 0.01, 100.0, "floor", "auto"))
model.set_pending(macs)
model.publish()
print("counted", flush=True)
if sys.argv[2] == "stay":
    sys.stdin.readline()
"""


def served(**changes: Any) -> Served:
    return replace(Served("normal", 0.01, 0.3, True, 0.5, 0.4, 100, 300, 0.9), **changes)


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """NOTE: this parser appends `_total` to every counter, which Triton's have not and Prometheus does not ask for."""
    families = text_string_to_metric_families(text.decode())
    return {
        (
            sample.name.removesuffix("_total") if "nv_" in sample.name else sample.name,
            tuple(sorted(sample.labels.items())),
        ): sample.value
        for family in families
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, tuple(sorted(({"model": "m", "version": "1"} | labels).items()))]


def test_a_bucket_ends_exactly_at_each_models_objective() -> None:
    registry = CollectorRegistry()
    model = ModelMetrics(Metrics(registry, slo_s=[0.3, 0.02]), "m", "1")
    model.count_served([served(total_s=0.3), served(total_s=0.3000001)])
    model.publish()
    text = render(registry)
    assert value(text, "swan_request_duration_seconds_bucket", priority="normal", le="0.02") == 0
    assert value(text, "swan_request_duration_seconds_bucket", priority="normal", le="0.3") == 1
    assert value(text, "swan_request_duration_seconds_bucket", priority="normal", le="+Inf") == 2


def test_each_model_costs_at_most_three_hundred_series() -> None:
    registry = CollectorRegistry()
    model = ModelMetrics(Metrics(registry, slo_s=[0.3, 0.02]), "m", "1")
    for priority in ("high", "normal", "low"):
        model.count_served([served(priority=priority), served(priority=priority, on_time=False)])
        model.count_error(priority)
        model.count_cancelled(priority)
        for reason in ("admission", "deadline", "queue_full", "floor", "evicted", "quota", "draining"):
            model.count_shed(priority, reason)
    model.set_controller(STATE)
    model.set_layers({f"layer{i}": 0.5 for i in range(12)})
    model.set_profile("hash", "measured")
    model.count_watchdog()
    model.count_worker_death()
    model.publish()
    own = [key for key in samples(render(registry)) if ("model", "m") in key[1] or key[0].startswith("swan_")]
    assert 150 < len(own) <= 300


def test_triton_names_carry_the_same_counts_in_its_units() -> None:
    registry = CollectorRegistry()
    model = ModelMetrics(Metrics(registry), "m", "1")
    model.count_batch(BatchCost(requests=2, rows=5, input_s=0.001, compute_s=0.25, output_s=0.002))
    model.count_served([served(queue_s=0.5, total_s=1.0), served(queue_s=0.25, total_s=0.5)])
    model.count_shed("normal", "admission")
    model.count_error("high")
    model.count_cancelled("low")
    model.set_pending(3)
    model.publish()
    text = render(registry)
    assert value(text, "nv_inference_request_success") == 2
    assert value(text, "nv_inference_count") == 5
    assert value(text, "nv_inference_exec_count") == 1
    assert value(text, "nv_inference_request_duration_us") == 1_500_000
    assert value(text, "nv_inference_queue_duration_us") == 750_000
    assert value(text, "nv_inference_compute_infer_duration_us") == 500_000
    assert value(text, "nv_inference_pending_request_count") == 3
    for reason in ("REJECTED", "BACKEND", "CANCELED"):
        assert value(text, "nv_inference_request_failure", reason=reason) == 1
    assert "nv_inference_count_total" not in text.decode()


def test_a_scrape_says_which_build_answers() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    (labels,) = [key[1] for key in samples(render(registry)) if key[0] == "swan_build_info"]
    assert dict(labels)["python"] == platform.python_version()


def test_label_values_are_escaped() -> None:
    registry = CollectorRegistry()
    model = ModelMetrics(Metrics(registry), 'a"b\\c\nd', "1")
    model.count_shed("normal", "quota")
    model.publish()
    names = {sample[1] for sample in samples(triton_text(registry.collect()).encode())}
    assert any(("model", 'a"b\\c\nd') in labels for labels in names)


def replica(folder: Path, macs: int, then: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-c", REPLICA, str(macs), then],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "counted"
    return process


def test_sums_are_exact_over_replicas_that_come_and_go(tmp_path: Path) -> None:
    folder = tmp_path
    alive = replica(folder, 1_000, "stay")
    try:
        for macs in (20, 3):
            with replica(folder, macs, "leave") as dead:
                dead.wait()
        for _ in range(2):  # folding the dead in must not count them twice
            text = render(CollectorRegistry(), folder)
            assert value(text, "swan_compute_macs_total") == 1_023
            assert value(text, "swan_requests_total", priority="normal", outcome="ok") == 3
            assert value(text, "swan_request_duration_seconds_count", priority="normal") == 3
            assert value(text, "swan_controller_queue_requests") == 1_000
            assert value(text, "swan_pending_requests") == 1_000
            assert value(text, "swan_controller_budget_ratio") == 0.5
            assert value(text, "nv_inference_request_success") == 3
        assert not [path for path in folder.glob("*.db") if str(dead.pid) in path.name]
    finally:
        alive.communicate("\n")
