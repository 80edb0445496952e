"""A table that is piped is printed in full: a file has no width that it would have to be squeezed into."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.table import Table
from typer.testing import CliRunner

from service.cli import app
from service.commands.tables import table_console

COMMANDS = (["models"], ["settings"], ["simulate", "--shape", "step", "--duration", "1"])


def test_a_pipe_gets_every_cell_on_one_line_and_a_terminal_its_width() -> None:
    wide = [f"column-{i:02d}" for i in range(20)]
    table = Table(*wide)
    table.add_row(*(name.upper() for name in wide))
    piped = StringIO()
    table_console(file=piped).print(table)
    assert all(any(name in line for line in piped.getvalue().splitlines()) for name in wide)
    assert max(map(len, piped.getvalue().splitlines())) < 300  # no wider than what it holds
    assert table_console(file=StringIO(), force_terminal=True, width=80).width == 80


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
def test_a_piped_command_cuts_off_nothing(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = (_output(command, columns, monkeypatch) for columns in ("40", "400"))
    assert "…" not in narrow
    assert [len(line) for line in narrow.splitlines()] == [len(line) for line in wide.splitlines()]


def _output(command: list[str], columns: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", columns)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    return done.stdout
