"""Settings: ranks of the sources, one helpful line per mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.config import InvalidSetting, Settings, environment_of


def test_command_line_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().threads == 1
    file = {"threads": 2, "server_name": "from-file", "policy": "fixed"}
    monkeypatch.setenv("SWAN_THREADS", "3")
    monkeypatch.setenv("SWAN_SERVER_NAME", "from-environment")
    settings = Settings.load(file, {"threads": 4})
    assert (settings.threads, settings.server_name, settings.policy) == (4, "from-environment", "fixed")


def test_overrides_travel_to_other_processes_as_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    overrides = {"threads": 7, "models_dir": tmp_path, "policy": "shadow"}
    for name, value in environment_of(overrides).items():
        monkeypatch.setenv(name, value)
    assert Settings.load({"threads": 2}) == Settings.load({}, overrides)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("threads", 0, ">= 1"),
        ("fixed_budget", 1.5, "<= 1.0"),
        ("max_queue_requests", 0, ">= 1"),
        ("limits", {"max_body_bytes": 0}, "max_body_bytes: expected a number above 0"),
        ("policy", "fastest", "drain-feasible"),
        ("thread", 1, "threads"),
        ("quota_macs_per_second", 0, "> 0"),
        ("quota_tenants", {"shop": -1.0}, "greater than 0"),
        ("tenant_header", "X Tenant", "lower case"),
        ("models_dir", "/does/not/exist", "existing folder"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: object, expected: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Settings.load({name: value})
    assert name in caught.value.message
    assert expected in caught.value.message
    assert "\n" not in caught.value.message


def test_one_limit_is_set_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWAN_LIMITS__MAX_BODY_BYTES", "4096")
    limits = Settings.load().limits
    assert limits.max_body_bytes == 4096
    assert limits.max_json_depth == 100


def test_settings_are_frozen() -> None:
    settings = Settings.load()
    with pytest.raises(ValidationError):
        settings.threads = 2  # type: ignore[misc]


def test_every_setting_has_one_line_of_documentation() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description, name
