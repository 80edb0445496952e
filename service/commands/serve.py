"""`swan serve`: the service with all packaged models, HTTP and gRPC, until Ctrl-C."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.config import InvalidSetting, Settings
from service.launcher.plan import Plan
from service.launcher.preflight import CannotStart
from service.launcher.run import serve
from service.launcher.serve_file import ServeFile, default_path

app = typer.Typer(add_completion=False)

SCALINGS = ("demand", "requests")


@app.command()
def command(
    models: Annotated[Path | None, typer.Option(help="Folder with model packages; default: those shipped.")] = None,
    config: Annotated[Path | None, typer.Option(help="Ray Serve config file; default: the shipped one.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 0.0.0.0 = all.")] = None,
    port: Annotated[int | None, typer.Option(help="HTTP port (8000).", min=1, max=65535)] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port (8001).", min=1, max=65535)] = None,
    replicas: Annotated[int | None, typer.Option(help="Fixed number of replicas.", min=1, max=64)] = None,
    threads: Annotated[int | None, typer.Option(help="Executor threads of a replica.", min=1, max=256)] = None,
    scaling: Annotated[
        str, typer.Option(help="Replicas by `demand` at the target budget or by `requests`.", envvar="SWAN_SCALING")
    ] = "demand",
    policy: Annotated[str | None, typer.Option(help="Budget under load: drain-feasible, fixed or shadow.")] = None,
    proxy: Annotated[str, typer.Option(help="Ingress: auto, haproxy or default.", envvar="SWAN_PROXY")] = "auto",
    no_ray: Annotated[bool, typer.Option("--no-ray", help="One replica in this process, without Ray.")] = False,
) -> None:
    """Start the service with all packaged models and run until Ctrl-C, which drains."""
    if scaling not in SCALINGS:
        raise typer.BadParameter(f"expected one of {', '.join(SCALINGS)}, got {scaling!r}", param_hint="--scaling")
    proxy = "none" if no_ray else proxy
    console = Console(stderr=False, highlight=False, soft_wrap=True)
    overrides = {
        name: value
        for name, value in {"models_dir": models, "threads": threads, "policy": policy}.items()
        if value is not None
    }
    try:
        file = ServeFile.read(config or default_path()).patched(
            host=host, http_port=port, grpc_port=grpc_port, replicas=replicas, threads=threads, scaling=scaling
        )
        file = file.fitted(len(os.sched_getaffinity(0)))
        settings = Settings.load(file.settings, overrides)
        code = serve(Plan(file, settings, {name: str(value) for name, value in overrides.items()}, proxy), console)
    except (CannotStart, InvalidSetting) as problem:
        console.print(f"[red]cannot start:[/] {problem}")
        raise typer.Exit(2) from None
    raise typer.Exit(code)
