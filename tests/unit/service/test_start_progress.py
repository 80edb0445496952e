"""What a starting replica says reaches the terminal: each line once, whole, and never at the price of the start."""

from __future__ import annotations

from pathlib import Path

from service.inference.progress import ProgressReader, note_progress


def test_every_line_is_read_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    reader = ProgressReader(path)
    assert reader.new_lines() == []
    note_progress(path, "loading a")
    note_progress(path, "profiling a")
    assert reader.new_lines() == ["loading a", "profiling a"]
    with path.open("a") as file:
        file.write("warming up b\nloa")
    assert reader.new_lines() == ["warming up b"]
    with path.open("a") as file:
        file.write("ding c\n")
    assert reader.new_lines() == ["loading c"]
    assert reader.new_lines() == []


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    note_progress(None, "loading a")
    note_progress(tmp_path / "missing" / "progress", "loading a")
    assert list(tmp_path.iterdir()) == []
