"""`swan calibrate`: measure a package's curve on your own data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.registry import find_package, shipped_repository
from service.commands.models import curve
from swan_runtime.errors import FieldError

app = typer.Typer(help="Recalibrate a package on your own data.")


@app.command()
def calibrate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A packaged model.")],
    data: Annotated[
        Path, typer.Option(help="npz, safetensors, parquet or jsonl: inputs by name, optionally `labels`.")
    ],
    repository: Annotated[Path | None, typer.Option(help="Folder of packages; default: those that ship.")] = None,
    out: Annotated[Path | None, typer.Option(help="Repository for the renewed package; default: only show it.")] = None,
) -> None:
    """Thresholds, activity, MACs and quality of every budget, measured anew. Without labels: agreement with full."""
    from models.calibration import load_gated, recalibrate, with_table
    from models.user_data import read_data

    console = Console(soft_wrap=True)
    try:
        path = find_package(repository or shipped_repository(), name)
        table = recalibrate(path, read_data(data, load_gated(path).spec))
    except FieldError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    console.print(curve(table))
    if out is not None:
        target = out / name / path.name
        if target.resolve() != path.resolve():
            shutil.copytree(path, target, dirs_exist_ok=True)
        with_table(target, table)
        console.print(f"wrote {target}")
