"""`swan infer`: send one picture, text or array to a running service and show the answer and what it cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.table import Table

from models.interface import Arrays, ModelSpec
from service.commands.client import Answer, Client, ClientError, Target
from service.commands.pictures import PictureError, half_blocks, light_ground, read_picture, shades
from service.console.inputs import form_of
from service.console.views import classes as confidences

app = typer.Typer(add_completion=False)

BAR_CELLS = 18


@app.command()
def infer(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, e.g. fashion-mlp.")],
    file: Annotated[Path | None, typer.Option(help="A picture, or a .npy array of one row.")] = None,
    text: Annotated[str | None, typer.Option(help="A text, for models that read text.")] = None,
    budget: Annotated[float | None, typer.Option(help="Pin the compute budget, 0 to 1; else the load decides.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Deadline in seconds; else the model's own.")] = None,
    invert: Annotated[bool, typer.Option("--invert", help="The picture is dark on light.")] = False,
    url: Annotated[str, typer.Option(help="http://HOST:PORT or grpc://HOST:PORT.")] = "http://127.0.0.1:8000",
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 5,
    api_key: Annotated[str, typer.Option(envvar="SWAN_API_KEY", help="API key, if the service wants one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Send one picture, text or array to a running service and show the answer and what it cost."""
    console = Console()
    try:
        with Client(Target.parse(url), api_key) as client:
            spec = client.spec(model)
            inputs, picture = _read_input(spec, file, text, invert)
            answer = client.infer(spec, inputs, _parameters(budget, timeout))
    except (ClientError, PictureError) as error:
        typer.echo(f"swan infer: {error}", err=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(_as_json(answer, top)))
        return
    shown = Group(_result(answer, top), "", _cost(answer.parameters))
    if picture is None:
        console.print(shown)
        return
    side_by_side = Table.grid(padding=(0, 2))
    side_by_side.add_row(half_blocks(picture) if console.color_system else shades(picture), shown)
    console.print(side_by_side)
    if light_ground(picture):
        console.print("[dim]The ground is light; models trained on light-on-dark pictures want --invert.[/]")


def _parameters(budget: float | None, timeout: float | None) -> dict[str, Any]:
    found: dict[str, Any] = {} if budget is None else {"quality": budget}
    return found if timeout is None else {**found, "timeout": round(timeout * 1e6)}


def _read_input(
    spec: ModelSpec, file: Path | None, text: str | None, invert: bool
) -> tuple[Arrays, NDArray[np.uint8] | None]:
    """One row of input, and its picture if it is one."""
    form, declared = form_of(spec), spec.inputs[0]
    if (file is None) == (text is None):
        raise ClientError(f"give --file or --text; {spec.name} takes {_wants(spec)}")
    if file is not None and file.suffix == ".npy":
        return {declared.name: _read_array(file, spec)}, None
    if form.kind == "image" and file is not None:
        pixels = read_picture(file, form.channels, form.height, form.width, invert)
        return {declared.name: (pixels.astype(np.float32) / 255.0).reshape(1, *declared.shape)}, pixels
    if form.kind == "text":
        raw = text.encode() if text is not None else _read_bytes(file)
        return {declared.name: np.array([raw], dtype=np.object_).reshape(1, *declared.shape)}, None
    raise ClientError(f"{spec.name} takes {_wants(spec)}")


def _wants(spec: ModelSpec) -> str:
    known = {"image": "a picture: --file IMAGE", "text": "a text: --text TEXT"}
    shapes = ", ".join(f"{item.name} {item.datatype}{list(item.shape)}" for item in spec.inputs)
    return known.get(form_of(spec).kind, f"arrays: {shapes}")


def _read_array(file: Path, spec: ModelSpec) -> NDArray[Any]:
    declared = spec.inputs[0]
    try:
        array = np.load(file, allow_pickle=False)
    except (OSError, ValueError):
        raise ClientError(f"{file.name}: not a .npy array without objects") from None
    row: NDArray[Any] = array if array.ndim == len(declared.shape) + 1 else array[None]
    return row


def _read_bytes(file: Path | None) -> bytes:
    try:
        return file.read_bytes() if file is not None else b""
    except OSError as error:
        raise ClientError(f"{file}: {error.strerror}") from None


def _classes(answer: Answer, top: int) -> list[dict[str, Any]]:
    scores = np.array([item.score for item in answer.classes])
    return confidences(scores, tuple(item.label for item in answer.classes))[:top]


def _result(answer: Answer, top: int) -> RenderableType:
    if answer.classes:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        for item in _classes(answer, top):
            bar = "█" * round(item["confidence"] * BAR_CELLS)
            table.add_row(item["label"], f"[cyan]{bar:<{BAR_CELLS}}[/]", f"{100 * item['confidence']:5.1f} %")
        return table
    table = Table("output", "shape", "values", box=None, header_style="bold")
    for name, array in answer.outputs.items():
        values = np.array2string(array.reshape(-1), precision=4, threshold=8, edgeitems=4)
        table.add_row(name, "x".join(str(n) for n in array.shape), values)
    return table


def _cost(parameters: Any) -> Table:
    """What the answer says about itself; a server that says nothing gives an empty table."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    found = {key: parameters[key] for key in parameters}
    if "quality_budget" in found:
        limited = found.get("quality_limited_by", "none")
        table.add_row(
            "budget", f"{float(found['quality_budget']):.2f}" + ("" if limited == "none" else f" ({limited})")
        )
    if "quality_activity" in found:
        table.add_row("units that ran", f"{100 * float(found['quality_activity']):.1f} %")
    if found.get("compute_macs_dense"):
        macs, dense = int(found["compute_macs"]), int(found["compute_macs_dense"])
        table.add_row("MACs", f"{macs:,} of {dense:,} ({100 * macs / dense:.1f} %)")
    if "quality_expected" in found:
        table.add_row("expected quality", f"{float(found['quality_expected']):.4f}")
    if "queue_us" in found:
        queue, compute = (int(found[name]) / 1000 for name in ("queue_us", "compute_us"))
        table.add_row("queue, compute", f"{queue:.2f} ms, {compute:.2f} ms")
    return table


def _as_json(answer: Answer, top: int) -> dict[str, Any]:
    if answer.classes:
        return {"classes": _classes(answer, top), "parameters": dict(answer.parameters)}
    outputs = {name: _plain(array) for name, array in answer.outputs.items()}
    return {"outputs": outputs, "parameters": dict(answer.parameters)}


def _plain(array: NDArray[Any]) -> list[Any]:
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
