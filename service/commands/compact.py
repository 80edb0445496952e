"""`swan compact`: leave with a plain dense model for one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.registry import find_package, load_package, shipped_repository
from swan_runtime.errors import FieldError

app = typer.Typer(help="Export a plain dense model for one budget.")


@app.command()
def compact(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A packaged model.")],
    budget: Annotated[float, typer.Option(help="Budget in (0, 1].")],
    data: Annotated[
        Path, typer.Option(help="Inputs that show which units are needed: npz, safetensors, parquet, jsonl.")
    ],
    out: Annotated[Path, typer.Option(help="Program file to write (torch.export).")] = Path("compact.pt2"),
    repository: Annotated[Path | None, typer.Option(help="Folder of packages; default: those that ship.")] = None,
) -> None:
    """Units that never fire are dropped, always-on ones lose their gate; the file runs with torch alone."""
    import torch

    from models.calibration import compact_package, read_data

    console = Console()
    try:
        path = find_package(repository or shipped_repository(), name)
        spec = load_package(path).spec
        compacted = compact_package(path, budget, read_data(data, spec))
    except FieldError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    console.print(str(compacted))
    example = torch.zeros(2, *(abs(length) for length in spec.inputs[0].shape))
    rows = {0: torch.export.Dim("rows", min=1)}
    torch.export.save(torch.export.export(compacted.module, (example,), dynamic_shapes=(rows,)), out)
    console.print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
