"""`swan settings` names every setting, shows what the environment makes of it, and says what is wrong with it."""

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands.settings import rows
from service.config import Settings


def test_every_setting_and_limit_is_listed_with_a_meaning() -> None:
    listed = {variable: meaning for variable, _, _, meaning in rows(Settings())}
    assert {f"SWAN_{name.upper()}" for name in Settings.model_fields} - set(listed) == {"SWAN_LIMITS"}
    assert "SWAN_LIMITS__MAX_BODY_BYTES" in listed
    assert all(listed.values())


def test_what_the_environment_sets_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAN_THREADS", "3")
    monkeypatch.setenv("SWAN_LIMITS__MAX_DIMS", "5")
    monkeypatch.setenv("COLUMNS", "200")
    lines = CliRunner().invoke(app, ["settings"]).output.splitlines()
    assert any("SWAN_THREADS" in line and "3 *" in line for line in lines)
    assert any("SWAN_LIMITS__MAX_DIMS" in line and "5 *" in line for line in lines)
    assert sum("*" in line for line in lines) == 2


def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAN_THREADS", "0")
    done = CliRunner().invoke(app, ["settings"])
    assert done.exit_code == 2
    assert "threads" in done.output
