"""What a replica does while it starts, as lines of a file: it is another process than the one with the terminal."""

from __future__ import annotations

import contextlib
from pathlib import Path


def note_progress(path: Path | None, line: str) -> None:
    """Append one line; without a file, or one that cannot be written, nobody hears it."""
    if path is not None:
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")


class ProgressReader:
    """Gives every line once, in the order in which it was written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def new_lines(self) -> list[str]:
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(self._position)
            content = file.read()
            complete = content[: content.rfind(b"\n") + 1]
            self._position += len(complete)
            return complete.decode("utf-8", errors="replace").splitlines()
        return []
