"""`swan compact`: leave with a plain dense model for one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models.registry import find_package, shipped_repository
from swan_runtime.errors import FieldError

app = typer.Typer(help="Export a plain dense model for one budget.")


@app.command()
def compact(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A packaged model.")],
    budget: Annotated[float, typer.Option(help="Budget in (0, 1].")],
    data: Annotated[
        Path | None,
        typer.Option(help="npz, safetensors, parquet or jsonl: one half decides which units are needed, the other "
                     "measures. Default: the sample that ships."),
    ] = None,
    min_rate: Annotated[
        float, typer.Option(help="Also drop units that run for at most this share of the inputs.")
    ] = 0.0,
    out: Annotated[Path, typer.Option(help="Program file to write (torch.export).")] = Path("compact.pt2"),
    repository: Annotated[Path | None, typer.Option(help="Folder of packages; default: those that ship.")] = None,
) -> None:  # fmt: skip
    """Units that never fire are dropped, the others run always; the file runs with torch alone.

    For texts it takes token ids and which of them are valid, both [rows, tokens].
    """
    from models.calibration import load_gated
    from models.export import export, sample_data, save_program
    from models.user_data import read_data

    console = Console(soft_wrap=True)
    try:
        model = load_gated(find_package(repository or shipped_repository(), name))
        if data is None:
            decides, measured_on = sample_data(model)
        else:
            own = read_data(data, model.spec)
            decides, measured_on = own.halves()
        exported = export(model, budget, decides, measured_on, min_rate)
    except FieldError as error:
        console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None
    console.print(str(exported))
    save_program(model, exported.compacted.module, out)
    console.print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
