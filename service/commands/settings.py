"""`swan settings`: every setting of a replica, where it comes from and what it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from service.config import ENVIRONMENT_PREFIX, InvalidSetting, Settings
from service.inference.limits import Limits

app = typer.Typer(help="List all settings with their variables, present values and meanings.")


@app.command()
def show() -> None:
    """Each is an environment variable, or a key (its name in lower case, without SWAN_) of the Serve config's `args`.

    Shown with the value that this environment gives it; a star marks what is not the default.
    """
    console = Console()
    try:
        settings = Settings.load()
    except InvalidSetting as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    table = Table("variable", "value", "meaning")
    for variable, value, default, meaning in rows(settings):
        table.add_row(variable, f"{_shown(value)}{'' if value == default else ' *'}", meaning)
    console.print(table)


def rows(settings: Settings) -> Iterator[tuple[str, Any, Any, str]]:
    """(variable, value, default, meaning) of every setting, single limits last."""
    for name, field in Settings.model_fields.items():
        if name != "limits":
            yield f"{ENVIRONMENT_PREFIX}{name.upper()}", getattr(settings, name), field.default, field.description or ""
    for limit in fields(Limits):
        value = getattr(settings.limits, limit.name)
        yield (
            f"{ENVIRONMENT_PREFIX}LIMITS__{limit.name.upper()}",
            value,
            limit.default,
            "see service/inference/limits.py",
        )


def _shown(value: Any) -> str:
    return "" if value in (None, "", (), {}) else str(value)
