"""Compiles the C sources into a cache directory: keyed by source and flags, safe with many processes at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = (
    "rows.c",
    "single.c",
    "few.c",
    "many.c",
    "gate.c",
    "magnitude.c",
    "conv.c",
    "channels.c",
    "panels.c",
    "shared.c",
    "linear.c",
)
HEADERS = ("vec.h", "rows.h", "conv.h", "panels.h")
PACKAGED = Path(__file__).parent / "built"

_COMMON = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno")
_X86 = ("-mfma", "-mbmi", "-mbmi2", "-mpopcnt")
# torch's name for what the CPU can do -> flags. -ffast-math is out: the gate detects NaN by arithmetic.
FAMILIES: dict[str, tuple[str, ...]] = {
    "AVX512": (
        *_COMMON,
        *_X86,
        "-mavx512f",
        "-mavx512vl",
        "-mavx512bw",
        "-mavx512dq",
        "-mprefer-vector-width=512",
        "-DVECTOR_BYTES=64",
    ),
    "AVX2": (*_COMMON, *_X86, "-mavx2", "-DVECTOR_BYTES=32"),
}
_COMPILERS = ("cc", "gcc", "clang")
_COMPILE_TIMEOUT_S = 600.0  # 3 s of CPU time; a crowded machine may give little of it


class LibraryUnavailable(Exception):
    """The native library cannot be had here; the text says why."""


def key(family: str) -> str:
    """Identifies source and flags: a changed kernel is compiled anew, an unchanged one is found again."""
    digest = hashlib.sha256(" ".join(FAMILIES[family]).encode())
    for name in (*HEADERS, *SOURCES):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


def file_name(family: str) -> str:
    return f"swan_kernels_{family.lower()}_{key(family)}.so"


def own_directory(path: Path) -> Path:
    """Create `path` for this user only; refuse one that another user could have filled."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise LibraryUnavailable(f"no cache directory: {error}") from None
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LibraryUnavailable(f"{path} belongs to or is writable by others")
    return path


def find_compiler() -> str:
    """Path of a C compiler, or LibraryUnavailable."""
    for name in _COMPILERS:
        path = shutil.which(name)
        if path:
            return path
    raise LibraryUnavailable(f"no C compiler ({', '.join(_COMPILERS)})")


def build(family: str, directory: Path, compiler: str | None = None) -> Path:
    """The compiled library of `family` in `directory`; compiles it if it is not there yet.

    Any number of processes may do so at once: each writes its own file and renames it into place.
    """
    if family not in FAMILIES:
        raise LibraryUnavailable(f"no native kernels for CPU capability {family}")
    if sys.platform != "linux":
        raise LibraryUnavailable(f"no native kernels on {sys.platform}")
    target = directory / file_name(family)
    if target.is_file():
        return target
    own_directory(directory)
    compiler = compiler or find_compiler()
    handle, temporary = tempfile.mkstemp(dir=directory, suffix=".so")
    os.close(handle)
    try:
        _compile(compiler, FAMILIES[family], Path(temporary))
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _compile(compiler: str, flags: tuple[str, ...], output: Path) -> None:
    sources = [str(Path(__file__).parent / name) for name in SOURCES]
    command = [compiler, *flags, "-o", str(output), *sources, "-lm", "-lpthread"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryUnavailable(f"{compiler}: {error}") from None
    if done.returncode != 0:
        raise LibraryUnavailable(f"{compiler} failed: {done.stderr.strip()[-500:]}")
