"""`swan models`: the packages of a repository with their curves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from models.errors import PackageError
from models.package import Package, read_package
from models.registry import find_packages, shipped_repository
from service.commands.tables import table_console
from swan_runtime.budget import CalibrationTable
from swan_runtime.errors import FieldError

app = typer.Typer(help="List model packages with their quality and compute curves.")


@app.command()
def show(
    repository: Annotated[Path | None, typer.Option(help="Folder of packages; default: those that ship.")] = None,
) -> None:
    """One table a package: what each budget costs and gives, as measured on held-out calibration data."""
    console = table_console()
    try:
        paths = list(find_packages(repository or shipped_repository()))
    except PackageError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    for path in paths:
        try:
            package = read_package(path)
            table = package.table()
        except FieldError as error:
            console.print(f"[red]{path.parent.name} {path.name}: {error}[/red]")
            continue
        console.print(_heading(package))
        if table is not None:
            console.print(curve(table))


def curve(table: CalibrationTable) -> Table:
    """The table's points, cheapest first, with a bar for the MACs."""
    shown = Table(caption=f"{table.metric} on {table.n} held-out samples")
    for name in ("budget", "activity", "p99", "MACs", "of dense", "", table.metric):
        shown.add_column(name, justify="left" if name == "" else "right")
    for point in table.points:
        share = point.macs_mean / table.macs_dense
        shown.add_row(
            f"{point.budget:.2f}",
            f"{point.activity_mean:.1%}",
            f"{point.activity_p99:.1%}",
            f"{point.macs_mean / 1e6:.2f}M",
            f"{share:.1%}",
            "█" * max(1, round(20 * min(share, 1.0))),
            f"{point.quality:.4f}",
        )
    return shown


def _heading(package: Package) -> str:
    manifest = package.manifest
    return f"\n[bold]{manifest.name}[/bold] {package.version}  {manifest.family}  {manifest.description}"
