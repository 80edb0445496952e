"""`swan settings`: every setting of a replica, where it comes from and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from service.commands.tables import table_console
from service.config import ENVIRONMENT_PREFIX, InvalidSetting, Settings
from service.inference.limits import Limits

app = typer.Typer(help="List all settings with their variables, present values and meanings.")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. unit: of a limit; what a setting counts is part of its meaning."""

    variable: str
    value: Any
    default: Any
    unit: str
    meaning: str


@app.command()
def show() -> None:
    """Each is an environment variable, or a key (its name in lower case, without SWAN_) of the Serve config's `args`.

    Shown with the value that this environment gives it; a star marks what is not the default.
    """
    console = table_console()
    try:
        settings = Settings.load()
    except InvalidSetting as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    table = Table("variable", "value", "default", "unit", "meaning")
    for row in rows(settings):
        changed = "" if row.value == row.default else " *"
        table.add_row(row.variable, _shown(row.value) + changed, _shown(row.default), row.unit, escape(row.meaning))
    console.print(table)


def rows(settings: Settings) -> Iterator[Row]:
    """Every setting, single limits last."""
    for name, described in Settings.model_fields.items():
        if name != "limits":
            variable, value = f"{ENVIRONMENT_PREFIX}{name.upper()}", getattr(settings, name)
            yield Row(variable, value, described.default, "", described.description or "")
    for limit in fields(Limits):
        variable, value = f"{ENVIRONMENT_PREFIX}LIMITS__{limit.name.upper()}", getattr(settings.limits, limit.name)
        yield Row(variable, value, limit.default, limit.metadata["unit"], limit.metadata["meaning"])


def _shown(value: Any) -> str:
    return "" if value in (None, "", (), {}) else escape(str(value))
