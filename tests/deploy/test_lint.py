"""Dockerfile and YAML are clean by the linters people use."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY, ROOT

pytestmark = pytest.mark.deploy


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_hadolint_is_silent() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    assert run(str(hadolint), "--config", str(DEPLOY / ".hadolint.yaml"), "Dockerfile") == ""


def test_yamllint_is_silent() -> None:
    assert run(sys.executable, "-m", "yamllint", "--strict", "-c", str(DEPLOY / ".yamllint"), "deploy") == ""
