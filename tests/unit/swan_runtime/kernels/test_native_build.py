"""The native library: compiled once, shared by concurrent processes, never required, never taken from others."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swan_runtime.kernels.native import build, library
from swan_runtime.kernels.native.library import Library

FAMILY = torch.backends.cpu.get_cpu_capability()
needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler here: Numba serves")


@needs_compiler
def test_an_existing_library_is_not_compiled_again(tmp_path: Path) -> None:
    target = tmp_path / build.file_name(FAMILY)
    target.write_bytes(b"already here")
    assert build.build(FAMILY, tmp_path, compiler="/no/such/compiler") == target
    assert target.read_bytes() == b"already here"


@needs_compiler
@pytest.mark.slow
def test_processes_may_compile_at_the_same_time(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from swan_runtime.kernels.native import build;"
        "print(build.build(sys.argv[1], pathlib.Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, FAMILY, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=200)[0].strip() for process in processes}
    assert paths == {str(tmp_path / build.file_name(FAMILY))}
    assert [path.name for path in tmp_path.iterdir()] == [build.file_name(FAMILY)]
    Library(tmp_path / build.file_name(FAMILY))


def test_a_failing_compiler_says_what_it_printed(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho no such option >&2\nexit 3\n", encoding="utf-8")
    compiler.chmod(0o700)
    with pytest.raises(build.LibraryUnavailable, match="no such option"):
        build.build("AVX2", tmp_path / "cache", compiler=str(compiler))
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unknown_cpu_and_a_missing_compiler_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(build.LibraryUnavailable, match="capability ALTIVEC"):
        build.build("ALTIVEC", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.LibraryUnavailable, match="no C compiler"):
        build.build("AVX2", tmp_path / "cache")


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    with pytest.raises(build.LibraryUnavailable, match="writable by others"):
        build.own_directory(shared)


@pytest.mark.slow
def test_without_a_compiler_numba_serves_and_the_log_says_why(tmp_path: Path) -> None:
    code = (
        "import torch\n"
        "from swan_runtime.kernels import MlpWeights, mlp, dispatch\n"
        "w = MlpWeights.pack(torch.randn(9, 4), None, torch.randn(3, 9), None, activation='relu')\n"
        "reasons = dispatch.candidates(dispatch.OWN)\n"
        "assert reasons['native'] and not reasons['numba'], reasons\n"
        "mask = torch.ones(2, 9, dtype=torch.bool)\n"
        "print(mlp(torch.randn(2, 4), mask, w, kernel='numba').kernel)\n"
    )
    environment = {"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.stdout.strip() == "numba", done.stderr
    assert "no C compiler" in done.stderr
