"""The metrics under the names of Triton's dashboards, derived from ours at scrape time: they cost a request nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

MICROSECONDS = 1e6

_FAILURES = {"shed": "REJECTED", "cancelled": "CANCELED", "error": "BACKEND"}
_SUMS = {
    # our sample: (Triton's name, factor)
    "swan_rows_total": ("nv_inference_count", 1.0),
    "swan_batches_total": ("nv_inference_exec_count", 1.0),
    "swan_request_duration_seconds_sum": ("nv_inference_request_duration_us", MICROSECONDS),
    "swan_queue_duration_seconds_sum": ("nv_inference_queue_duration_us", MICROSECONDS),
    "swan_compute_input_seconds_total": ("nv_inference_compute_input_duration_us", MICROSECONDS),
    "swan_compute_infer_seconds_total": ("nv_inference_compute_infer_duration_us", MICROSECONDS),
    "swan_compute_output_seconds_total": ("nv_inference_compute_output_duration_us", MICROSECONDS),
    "swan_pending_requests": ("nv_inference_pending_request_count", 1.0),
}
_HELP = {
    "nv_inference_request_success": "Number of successful inference requests",
    "nv_inference_request_failure": "Number of failed inference requests by reason",
    "nv_inference_count": "Number of inferences performed (rows)",
    "nv_inference_exec_count": "Number of model executions performed (batches)",
    "nv_inference_request_duration_us": "Cumulative request duration, queueing included",
    "nv_inference_queue_duration_us": "Cumulative queueing duration",
    "nv_inference_compute_input_duration_us": "Cumulative input processing duration",
    "nv_inference_compute_infer_duration_us": "Cumulative model execution duration",
    "nv_inference_compute_output_duration_us": "Cumulative output processing duration",
    "nv_inference_pending_request_count": "Number of requests awaiting execution",
}

_Key = tuple[str, str, str]  # model, version, failure reason or ""


def triton_text(families: Iterable[Metric]) -> str:
    """Prometheus text of the `nv_inference_*` families; Triton's counters have no `_total`, so it is written here."""
    totals: dict[str, defaultdict[_Key, float]] = {name: defaultdict(float) for name in _HELP}
    for family in families:
        for sample in family.samples:
            _add(totals, sample)
    return "".join(_family(name, values) for name, values in totals.items() if values)


def _add(totals: Mapping[str, defaultdict[_Key, float]], sample: Sample) -> None:
    labels = sample.labels
    key = (labels.get("model", ""), labels.get("version", ""), "")
    if sample.name in _SUMS:
        name, factor = _SUMS[sample.name]
        totals[name][key] += factor * sample.value
    elif sample.name == "swan_requests_total":
        reason = _FAILURES.get(labels["outcome"])
        if reason is None:
            totals["nv_inference_request_success"][key] += sample.value
        else:
            totals["nv_inference_request_failure"][(*key[:2], reason)] += sample.value


def _family(name: str, values: Mapping[_Key, float]) -> str:
    kind = "gauge" if name == "nv_inference_pending_request_count" else "counter"
    lines = [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}"]
    for (model, version, reason), value in values.items():
        labels = f'model="{_escaped(model)}",version="{_escaped(version)}"'
        if reason:
            labels += f',reason="{reason}"'
        lines.append(f"{name}{{{labels}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
