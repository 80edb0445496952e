"""`swan bench NAME`: translates to benchmarks/NAME.py, imported only when it is called."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import typer
from typer.core import TyperGroup

# Each module defines `main`, a function annotated with typer options.
BENCHMARKS = ("ingress_overload", "kernels", "models", "overhead", "serving")


class LazyBenchmarks(TyperGroup):
    """Lists the benchmarks there are; imports one when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in BENCHMARKS if importlib.util.find_spec(f"benchmarks.{name}") is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.list_commands(ctx):
            return None
        single = typer.Typer(rich_markup_mode="rich", add_completion=False)
        single.command(name=cmd_name)(importlib.import_module(f"benchmarks.{cmd_name}").main)
        return typer.main.get_command(single)


app = typer.Typer(cls=LazyBenchmarks, no_args_is_help=True)


@app.callback()
def root() -> None:
    """Benchmarks on this machine: kernels, models, overhead, serving."""
