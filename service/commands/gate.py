"""`swan gate`: gates for somebody's trained dense torch model, without training."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from service.commands.models import curve
from swan_runtime.errors import FieldError

app = typer.Typer(help="Gate a trained dense torch model without training and package it.")


@app.command()
def gate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="module:name of a torch module's class, or of a function giving one.")
    ],
    data: Annotated[
        Path,
        typer.Option(help="npz, safetensors, parquet or jsonl: an array a model input, optionally `labels`. One half "
                     "fits the gates, the other calibrates them."),
    ],
    weights: Annotated[Path | None, typer.Option(help="The model's state_dict as safetensors.")] = None,
    config: Annotated[str, typer.Option(help="Keyword arguments of MODEL, as JSON.")] = "{}",
    rank: Annotated[int, typer.Option(min=1, help="Rank of the gates: more costs more and chooses better.")] = 16,
    granularity: Annotated[str, typer.Option(help="A mask per token or per request.")] = "token",
    classes: Annotated[str, typer.Option(help="Names of the output's classes, separated by commas.")] = "",
    name: Annotated[str, typer.Option(help="Name of the package; default: MODEL's.")] = "",
    out: Annotated[Path, typer.Option(help="Model repository to write to.")] = Path("packages"),
) -> None:  # fmt: skip
    """Finds Linear-act-Linear, GLU and conv-norm-act-conv blocks, gates them, measures the curve, writes a package.

    `swan models --repository OUT` shows it and `swan serve` serves it, if MODEL can be imported there.
    """
    from models.gating import DenseSource, GateSettings, gate_package
    from models.user_data import read_columns

    console = Console(soft_wrap=True)
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it: a model file in this folder is importable
    try:
        settings = GateSettings(rank, _granularity(granularity), classes=tuple(filter(None, classes.split(","))))
        source = DenseSource(model, weights, _arguments(config))
        chosen = name or re.sub(r"[^A-Za-z0-9._-]+", "-", model.rpartition(":")[2]).lower()
        folder, table = gate_package(chosen, source, read_columns(data), settings, out)
    except FieldError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    console.print(curve(table))
    console.print(f"wrote {folder}")


def _granularity(value: str) -> str:
    if value not in ("token", "request"):
        raise FieldError("granularity", "token or request", value)
    return value


def _arguments(text: str) -> dict[str, Any]:
    try:
        arguments = json.loads(text)
    except json.JSONDecodeError as error:
        raise FieldError("config", "a JSON object", str(error)) from None
    if not isinstance(arguments, dict):
        raise FieldError("config", "a JSON object", type(arguments).__name__)
    return arguments
