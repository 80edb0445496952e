"""One self-contained page (HTML with its picture inside), the same as JSON, and the picture as PNG."""

from __future__ import annotations

import base64
import html
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from loadtests.outcomes import LABELS, ends_of
from loadtests.play import ADAPTIVE, FIXED, Block, Disturbance, Mark, Played
from loadtests.records import Run, summarise
from loadtests.verdict import checks, conclusion

FAILURE_COLOURS = {"late": "#f2c14e", "refused": "#9aa5b1", "expired": "#b58bc4", "error": "#b3261e", "lost": "#222222"}
MARK_COLOUR = "#6a3d00"
COLOURS = {ADAPTIVE: "#0b6e99", FIXED: "#c0504d"}
ROWS = (
    ("answered on time", "on_time_ratio", "{:.2%}"),
    ("effective accuracy (late and refused count as wrong)", "effective_accuracy", "{:.4f}"),
    ("accuracy of the answers", "accuracy", "{:.4f}"),
    ("goodput, requests/s", "goodput_rps", "{:.0f}"),
    ("offered, requests/s", "offered_rps", "{:.0f}"),
    ("p50, ms", "p50_ms", "{:.1f}"),
    ("p95, ms", "p95_ms", "{:.1f}"),
    ("p99, ms", "p99_ms", "{:.1f}"),
    ("late", "late_ratio", "{:.2%}"),
    ("refused at once", "refused_ratio", "{:.2%}"),
    ("given up after waiting", "expired_ratio", "{:.2%}"),
    ("errors", "error_ratio", "{:.2%}"),
    ("without an answer", "lost_ratio", "{:.2%}"),
    ("mean budget", "budget_mean", "{:.3f}"),
    ("mean activity", "activity_mean", "{:.3f}"),
    ("client sent late, p99 ms", "client_lateness_p99_ms", "{:.2f}"),
)


def write(played: Played, folder: Path, command: str) -> Path:
    """Write NAME.html, NAME.json and NAME.png into `folder`; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{played.scenario.name}-{played.model}"
    picture = folder / f"{name}.png"
    plot(played, picture)
    record = as_json(played, command)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = folder / f"{name}.html"
    page.write_text(_page(played, record, picture.read_bytes()), encoding="utf-8")
    return page


def as_json(played: Played, command: str) -> dict[str, Any]:
    return {
        "scenario": played.scenario.name,
        "says": played.scenario.says,
        "model": played.model,
        "protocol": played.protocol,
        "command": command,
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{platform.machine()}, {_cpu()}, python {platform.python_version()}",
        "deadline_s": played.yardstick.deadline_s,
        "capacity_rps": played.yardstick.capacity.rate,
        "closed_loop_rps": played.yardstick.capacity.closed_loop,
        "full_accuracy": played.yardstick.full_accuracy,
        "blocks": [{"policy": b.policy, "seed": b.seed, **b.summary.to_json()} for b in played.blocks],
        "outcomes": {policy: asdict(played.outcomes(policy)) for policy in policies_of(played)},
        "disturbance": asdict(played.disturbance) if played.disturbance is not None else None,
        "checks": [{"claim": c.claim, "wanted": c.wanted, "got": c.got, "passed": c.passed} for c in checks(played)],
        "noisy": list(played.noisy),
        "conclusion": conclusion(played),
    }


def policies_of(played: Played) -> list[str]:
    """Those that were played, ours first."""
    return [policy for policy in (ADAPTIVE, FIXED) if played.of(policy)]


def outcome_rows(played: Played) -> list[tuple[str, list[str]]]:
    """(how requests ended, their number for each policy)."""
    if played.disturbance is not None:
        return _disturbed_rows(played.blocks[0].run, played.disturbance)
    ended = [played.outcomes(policy) for policy in policies_of(played)]
    return [(label, [f"{getattr(one, name):,}" for one in ended]) for name, label in LABELS.items()]


def _disturbed_rows(run: Run, disturbance: Disturbance) -> list[tuple[str, list[str]]]:
    """With the seconds between which they were sent."""
    rows, ends = [], ends_of(run)
    for name, label in LABELS.items():
        sent = run.intended[ends[name]]
        span = f" (at {sent.min():.1f}-{sent.max():.1f} s)" if sent.size and name != "on_time" else ""
        rows.append((label, [f"{sent.size:,}{span}"]))
    return [*rows, ("last one not served, s after the disturbance", [f"{disturbance.trouble_s:.1f}"])]


def messages(played: Played) -> list[str]:
    """What requests were told that were not served: the most frequent texts of each end and policy."""
    return [
        f"{policy}: {LABELS[message.outcome]}, {message.count:,} times: {message.text}"
        for policy in policies_of(played)
        for message in played.outcomes(policy).messages
    ]


def _cpu() -> str:
    import os

    return f"{os.cpu_count()} cores"


def plot(played: Played, path: Path) -> None:
    """Offered load and goodput, latency, budget, accuracy, failures over time: the first block of each policy."""
    figure, axes = plt.subplots(5, 1, figsize=(10, 13), sharex=True, constrained_layout=True)
    firsts = [played.of(policy)[0] for policy in policies_of(played)]
    for item in firsts:
        _plot_block(item, axes, played)
    axes[0].set_ylabel("requests/s")
    axes[0].axhline(
        played.yardstick.capacity.rate, color="#888", ls=":", lw=1, label=f"capacity at {played.scenario.unit} budget"
    )
    axes[1].set_ylabel("latency, ms (p50, p99)")
    axes[1].axhline(played.yardstick.deadline_s * 1e3, color="#888", ls="--", lw=1, label="deadline")
    axes[1].set_yscale("log")
    axes[2].set_ylabel("budget, activity")
    axes[2].set_ylim(0, 1.05)
    axes[3].set_ylabel("effective accuracy")
    axes[3].axhline(played.yardstick.full_accuracy, color="#888", ls="--", lw=1, label="full quality, no load")
    axes[3].set_ylim(0, 1.02)
    axes[4].set_ylabel(f"not on time, requests/s\n({firsts[0].policy})")
    axes[4].set_ylim(bottom=0)
    axes[4].set_xlabel("seconds")
    for mark in played.disturbance.marks if played.disturbance is not None else ():
        _plot_mark(mark, axes)
    for axis in axes:
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
        axis.grid(alpha=0.25)
    figure.suptitle(f"{played.scenario.name}: {played.scenario.says} ({played.model}, {played.protocol})")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_block(item: Block, axes: Any, played: Played) -> None:
    width = max(0.25, played.scenario.block_s / 60)
    edges = np.arange(0.0, played.scenario.block_s, width)
    windows = [summarise(item.run, float(edge), float(edge + width)) for edge in edges]
    middle, colour = edges + width / 2, COLOURS[item.policy]

    def line(axis: Axes, field: str, label: str, style: str = "-", scale: float = 1.0, alpha: float = 1.0) -> None:
        values = [scale * getattr(window, field) for window in windows]
        axis.plot(middle, values, style, color=colour, lw=1.6, alpha=alpha, label=label)

    if item.policy == ADAPTIVE:
        axes[0].fill_between(middle, [w.offered_rps for w in windows], color="#ddd", label="offered", step="mid")
    line(axes[0], "goodput_rps", f"on time, {item.policy}")
    line(axes[1], "p99_ms", f"p99, {item.policy}")
    line(axes[1], "p50_ms", f"p50, {item.policy}", ":", alpha=0.8)
    line(axes[2], "budget_mean", f"budget, {item.policy}")
    line(axes[2], "activity_mean", f"activity, {item.policy}", ":", alpha=0.8)
    line(axes[3], "effective_accuracy", item.policy)
    if item.policy == ADAPTIVE:
        shares = [[getattr(w, f"{name}_ratio") * w.offered_rps for w in windows] for name in FAILURE_COLOURS]
        labels = [LABELS[name] for name in FAILURE_COLOURS]
        axes[4].stackplot(middle, np.nan_to_num(shares), labels=labels, colors=[*FAILURE_COLOURS.values()], step="mid")


def _plot_mark(mark: Mark, axes: Any) -> None:
    for axis in axes:
        axis.axvline(mark.at_s, color=MARK_COLOUR, ls="--", lw=1)
    place = {"xycoords": ("data", "axes fraction"), "xytext": (0, 3), "textcoords": "offset points"}
    axes[0].annotate(
        f"{mark.says}, {mark.at_s:.1f} s", (mark.at_s, 1.0), fontsize=8, color=MARK_COLOUR, ha="center", **place
    )


def _cells(values: list[str]) -> str:
    return "".join(f"<td>{value}</td>" for value in values)


def _page(played: Played, record: dict[str, Any], picture: bytes) -> str:
    policies = policies_of(played)
    head = "".join(f"<th>{policy}</th>" for policy in policies)
    rows = "".join(
        f"<tr><td>{label}</td>"
        + "".join(f"<td>{form.format(played.average(p, field))}</td>" for p in policies)
        + "</tr>"
        for label, field, form in ROWS
    )
    verdicts = "".join(
        f"<tr class={'pass' if c['passed'] else 'miss'}><td>{html.escape(c['claim'])}</td>"
        + _cells([html.escape(c["wanted"]), c["got"], "met" if c["passed"] else "missed"])
        + "</tr>"
        for c in record["checks"]
    )
    ended = "".join(f"<tr><td>{label}</td>{_cells(counts)}</tr>" for label, counts in outcome_rows(played))
    said = "".join(f"<li>{html.escape(text)}</li>" for text in messages(played))
    marks = played.disturbance.marks if played.disturbance is not None else ()
    image = base64.b64encode(picture).decode()
    facts = (
        f"{record['date']} · {html.escape(record['machine'])} · deadline {played.yardstick.deadline_s * 1e3:.0f} ms · "
        f"capacity at {played.scenario.unit} budget {played.yardstick.capacity.rate:.0f}/s · "
        f"<code>{html.escape(record['command'])}</code>"
        + "".join(f" · {html.escape(mark.says)} at {mark.at_s:.1f} s" for mark in marks)
    )
    return TEMPLATE.format(
        title=f"{played.scenario.name}: {html.escape(played.scenario.says)}",
        conclusion=html.escape(record["conclusion"]),
        facts=facts,
        image=image,
        head=head,
        rows=rows,
        verdicts=verdicts,
        ended=ended,
        said=f"<h3>What was said instead of an answer</h3><ul>{said}</ul>" if said else "",
    )


TEMPLATE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;margin:1rem 0}}
td,th{{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}}
td:first-child,th:first-child{{text-align:left}}img{{max-width:100%}}.pass td:last-child{{color:#1a7f37}}
.miss td:last-child{{color:#b3261e;font-weight:600}}.facts{{color:#666}}</style>
<h1>{title}</h1><p><strong>{conclusion}</strong></p><p class="facts">{facts}</p>
<img alt="load, latency, budget, accuracy and failures over time" src="data:image/png;base64,{image}">
<h2>Targets</h2><table><tr><th>what</th><th>wanted</th><th>got</th><th></th></tr>{verdicts}</table>
<h2>How the requests ended</h2><table><tr><th></th>{head}</tr>{ended}</table>{said}
<h2>Policies, mean over blocks</h2><table><tr><th></th>{head}</tr>{rows}</table></html>
"""
