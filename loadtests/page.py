"""The report as one self-contained HTML page, its picture inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from typing import Any

from loadtests.play import Played
from loadtests.tables import Rows, messages, tables


def page(played: Played, record: dict[str, Any], picture: bytes) -> str:
    """record: the same as JSON; picture: PNG."""
    verdicts = Rows(
        "Targets",
        ("what", "wanted", "got", ""),
        tuple((c["claim"], c["wanted"], c["got"], "met" if c["passed"] else "missed") for c in record["checks"]),
    )
    said = "".join(f"<li>{html.escape(text)}</li>" for text in messages(played))
    return TEMPLATE.format(
        title=f"{played.scenario.name}: {html.escape(played.scenario.says)}",
        conclusion=html.escape(record["conclusion"]),
        facts=_facts(played, record),
        image=base64.b64encode(picture).decode(),
        tables="".join(_table(rows) for rows in (verdicts, *tables(played))),
        said=f"<h2>What was said instead of an answer</h2><ul>{said}</ul>" if said else "",
    )


def _facts(played: Played, record: dict[str, Any]) -> str:
    marks = played.disturbance.marks if played.disturbance is not None else ()
    facts = [
        record["date"],
        html.escape(record["machine"]),
        f"deadline {played.yardstick.deadline_s * 1e3:.0f} ms",
        f"capacity at {played.scenario.unit} budget {played.yardstick.capacity.rate:.0f}/s",
        f"<code>{html.escape(record['command'])}</code>",
        *(f"{html.escape(mark.says)} at {mark.at_s:.1f} s" for mark in marks),
    ]
    return " · ".join(facts)


def _table(table: Rows) -> str:
    lines = "".join(f"<tr{_verdict(row)}>{_cells('td', row)}</tr>" for row in table.rows)
    return f"<h2>{html.escape(table.title)}</h2><table><tr>{_cells('th', table.head)}</tr>{lines}</table>"


def _verdict(row: tuple[str, ...]) -> str:
    return f" class={row[-1]}" if row[-1] in {"met", "missed"} else ""


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{html.escape(text)}</{tag}>" for text in texts)


TEMPLATE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;margin:1rem 0}}
td,th{{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}}
td:first-child,th:first-child{{text-align:left}}img{{max-width:100%}}.met td:last-child{{color:#1a7f37}}
.missed td:last-child{{color:#b3261e;font-weight:600}}.facts{{color:#666}}</style>
<h1>{title}</h1><p><strong>{conclusion}</strong></p><p class="facts">{facts}</p>
<img alt="load, latency, budget, accuracy, failures and memory over time" src="data:image/png;base64,{image}">
{tables}{said}</html>
"""
