"""Write the three Grafana dashboards into dashboards/; a test keeps them current.

A panel is (title, unit, [(legend, PromQL)]); the grid, the data source and the model variable are the same for all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
Panel = tuple[str, str, list[tuple[str, str]]]
M = 'model=~"$model"'


def quantiles(metric: str, *shares: float) -> list[tuple[str, str]]:
    """One query a quantile of a histogram, over the replicas."""
    inner = f"sum by (le) (rate({metric}_bucket{{{M}}}[1m]))"
    return [(f"p{share * 100:g}", f"histogram_quantile({share}, {inner})") for share in shares]


def rate(metric: str, by: str, extra: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{M}{extra}}}[1m]))"


SERVICE: list[Panel] = [
    ("Requests by outcome", "reqps", [("{{outcome}}", rate("swan_requests_total", "outcome"))]),
    (
        "Answered before the deadline",
        "percentunit",
        [("{{model}}", f"{rate('swan_slo_attained_total', 'model')} / {rate('swan_slo_requests_total', 'model')}")],
    ),
    ("Request time", "s", quantiles("swan_request_duration_seconds", 0.5, 0.95, 0.99)),
    ("Time in queue", "s", quantiles("swan_queue_duration_seconds", 0.5, 0.95, 0.99)),
    ("Compute time", "s", quantiles("swan_compute_duration_seconds", 0.5, 0.95, 0.99)),
    ("Refused or dropped, by reason", "reqps", [("{{reason}}", rate("swan_shed_total", "reason"))]),
    (
        "Effective accuracy (late and refused count as wrong)",
        "percentunit",
        [("{{model}}", f"{rate('swan_served_accuracy_total', 'model')} / {rate('swan_slo_requests_total', 'model')}")],
    ),
    (
        "Compute saved against dense",
        "percentunit",
        [
            (
                "{{model}}",
                f"1 - {rate('swan_compute_macs_total', 'model')} / {rate('swan_dense_equivalent_macs_total', 'model')}",
            )
        ],
    ),
]
CONTROLLER: list[Panel] = [
    (
        "Budget the controller commands",
        "percentunit",
        [("{{model}}", f"avg by (model) (swan_controller_budget_ratio{{{M}}})")],
    ),
    ("Saturated at", "short", [("{{model}} {{edge}}", f"max by (model, edge) (swan_controller_saturated{{{M}}})")]),
    ("Queue", "short", [("{{model}}", f"sum by (model) (swan_controller_queue_requests{{{M}}})")]),
    ("Backlog", "s", [("{{model}}", f"max by (model) (swan_controller_backlog_seconds{{{M}}})")]),
    ("Arrivals", "reqps", [("{{model}}", f"sum by (model) (swan_controller_arrival_rate_per_second{{{M}}})")]),
    (
        "kappa: measured over predicted batch time",
        "short",
        [("{{model}}", f"max by (model) (swan_controller_service_ratio{{{M}}})")],
    ),
    ("sigma: its spread", "short", [("{{model}}", f"max by (model) (swan_controller_margin_sigma{{{M}}})")]),
    (
        "Decision time",
        "s",
        [("p99", "histogram_quantile(0.99, sum by (le) (rate(swan_controller_decision_seconds_bucket[1m])))")],
    ),
    ("Replicas wanted", "short", [("wanted", "max(swan_desired_replicas)")]),
]
COMPUTE: list[Panel] = [
    ("Activity by layer", "percentunit", [("{{layer}}", f"avg by (layer) (swan_layer_activity_ratio{{{M}}})")]),
    ("Activity of requests", "percentunit", quantiles("swan_request_activity_ratio", 0.5, 0.9, 0.99)),
    ("Budget of requests", "percentunit", quantiles("swan_request_budget_ratio", 0.1, 0.5, 0.9)),
    ("MACs of a request", "short", quantiles("swan_request_compute_macs", 0.5, 0.9, 0.99)),
    (
        "MACs a second",
        "short",
        [
            ("executed", rate("swan_compute_macs_total", "model")),
            ("dense equivalent", rate("swan_dense_equivalent_macs_total", "model")),
        ],
    ),
    ("Requests that hit the activity cap", "reqps", [("{{model}}", rate("swan_cap_hits_total", "model"))]),
]
DASHBOARDS = {
    "service": ("swan-serve: service", SERVICE),
    "controller": ("swan-serve: controller", CONTROLLER),
    "compute": ("swan-serve: compute by layer", COMPUTE),
}


def panel(index: int, content: Panel) -> dict[str, Any]:
    title, unit, queries = content
    return {
        "id": index + 1,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}},
        "options": {"legend": {"displayMode": "table", "placement": "right", "calcs": ["last", "max"]}},
        "targets": [
            {"refId": chr(ord("A") + i), "legendFormat": legend, "expr": expr}
            for i, (legend, expr) in enumerate(queries)
        ],
    }


def dashboard(name: str) -> str:
    title, panels = DASHBOARDS[name]
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "model",
            "type": "query",
            "label": "Model",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": "label_values(swan_requests_total, model)",
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all"},
        },
    ]
    content = {
        "uid": f"swan-{name}",
        "title": title,
        "tags": ["swan-serve"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": variables},
        "panels": [panel(i, content) for i, content in enumerate(panels)],
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(dashboard(name), encoding="utf-8")
