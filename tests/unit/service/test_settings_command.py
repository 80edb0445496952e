"""`swan settings` names every setting, shows what the environment makes of it, and says what is wrong with it."""

from dataclasses import fields

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands.settings import rows
from service.config import Settings
from service.inference.limits import Limits


def test_every_setting_and_limit_is_listed_with_a_meaning() -> None:
    listed = {row.variable: row.meaning for row in rows(Settings())}
    assert {f"SWAN_{name.upper()}" for name in Settings.model_fields} - set(listed) == {"SWAN_LIMITS"}
    assert "SWAN_LIMITS__MAX_BODY_BYTES" in listed
    assert all(listed.values())
    limits = [row for row in rows(Settings()) if "LIMITS__" in row.variable]
    assert len(limits) == len(fields(Limits))
    assert all(row.unit and row.default > 0 for row in limits)
    suffixes = {"bytes": "_BYTES", "seconds": "_S", "characters": "_CHARS"}
    assert all(row.variable.endswith(suffix) for row in limits if (suffix := suffixes.get(row.unit)))


def test_a_limit_is_printed_with_value_default_unit_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAN_LIMITS__BODY_TIMEOUT_S", "7.5")
    (line,) = [line for line in CliRunner().invoke(app, ["settings"]).output.splitlines() if "BODY_TIMEOUT_S" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["SWAN_LIMITS__BODY_TIMEOUT_S", "7.5 *", "30.0", "seconds", "The longest silence inside a body."]


def test_what_the_environment_sets_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAN_THREADS", "3")
    monkeypatch.setenv("SWAN_LIMITS__MAX_DIMS", "5")
    lines = CliRunner().invoke(app, ["settings"]).output.splitlines()
    assert any("SWAN_THREADS" in line and "3 *" in line for line in lines)
    assert any("SWAN_LIMITS__MAX_DIMS" in line and "5 *" in line for line in lines)
    assert sum("*" in line for line in lines) == 2


def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAN_THREADS", "0")
    done = CliRunner().invoke(app, ["settings"])
    assert done.exit_code == 2
    assert "threads" in done.output
