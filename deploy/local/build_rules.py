"""The PrometheusRule's groups as a file for a Prometheus without the operator: python deploy/local/build_rules.py."""

from pathlib import Path

import yaml

SOURCE = Path(__file__).resolve().parents[1] / "components" / "monitoring" / "prometheusrule.yaml"
TARGET = Path(__file__).with_name("rules.yml")


def rules() -> str:
    """The text of rules.yml."""
    groups = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))["spec"]["groups"]
    head = f"# Written by build_rules.py from {SOURCE.name}: edit that.\n"
    return head + yaml.safe_dump({"groups": groups}, sort_keys=False, width=1000)


if __name__ == "__main__":
    TARGET.write_text(rules(), encoding="utf-8")
