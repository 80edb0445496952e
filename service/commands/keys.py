"""`swan keys`: create, list and revoke API keys. A running service picks the change up within a second."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.api.auth import Scope
from service.commands.tables import table_console
from service.security.keys import KeyFileError, KeyRing, create

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Create, list and revoke API keys; a running service picks the change up within a second.",
)

KeyFile = Annotated[Path, typer.Option("--file", help="The key file; `swan serve` reads it from SWAN_API_KEYS_FILE.")]
DEFAULT_FILE = Path("swan-keys.json")
DAY_S = 86_400.0


@app.command("create")
def create_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Name of the key, e.g. web-shop.")],
    file: KeyFile = DEFAULT_FILE,
    scope: Annotated[list[Scope] | None, typer.Option(help="Repeat for several; infer by default.")] = None,
    tenant: Annotated[str, typer.Option(help="Who pays for the compute; the id by default.")] = "",
    days: Annotated[float | None, typer.Option(help="Expires after this many days.", min=0.0)] = None,
) -> None:
    """Make a key, store its hash in the file, print the key once."""
    not_after = None if days is None else time.time() + days * DAY_S
    try:
        ring = KeyRing.load(file) if file.exists() else KeyRing([])
        credential, entry = create(key_id, scope or [Scope.INFER], tenant, not_after)
        ring.with_key(entry).save(file)
    except KeyFileError as error:
        raise _fail(str(error)) from None
    typer.echo(credential)
    typer.echo(f"shown once; {file} keeps only its hash. Use it as `authorization: Bearer KEY`.", err=True)


@app.command("list")
def list_keys(file: KeyFile = DEFAULT_FILE) -> None:
    """Show the keys of a file: ids, scopes, tenants, expiry; never a secret."""
    table = Table("id", "scopes", "tenant", "expires", box=None, header_style="bold")
    try:
        keys = KeyRing.load(file).keys
    except KeyFileError as error:
        raise _fail(str(error)) from None
    for key in keys:
        table.add_row(key.id, " ".join(sorted(key.scopes)), key.tenant, _expiry(key.not_after))
    table_console().print(table)


@app.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="ID")], file: KeyFile = DEFAULT_FILE) -> None:
    """Remove a key from the file."""
    try:
        KeyRing.load(file).without(key_id).save(file)
    except KeyFileError as error:
        raise _fail(str(error)) from None
    typer.echo(f"revoked {key_id}", err=True)


def _expiry(not_after: float | None) -> str:
    return "never" if not_after is None else datetime.fromtimestamp(not_after, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _fail(message: str) -> typer.Exit:
    typer.echo(f"swan keys: {message}", err=True)
    return typer.Exit(2)
