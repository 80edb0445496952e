"""Where commands and benchmarks print their tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console

UNBOUND = 1000  # columns; a table takes no more than its cells need


def table_console(**options: Any) -> Console:
    """Rich's console, except that nothing is squeezed or wrapped where the output is no terminal."""
    console = Console(**options)
    if not console.is_terminal:
        console.width = UNBOUND
    return console
