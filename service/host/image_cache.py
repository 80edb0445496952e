"""Caches that came with an image, made visible where this process may write: the image itself is read-only."""

from __future__ import annotations

import contextlib
from pathlib import Path

from service.telemetry.log import get


def link(image: Path | None, cache: Path) -> None:
    """Link what `cache` lacks: nothing is copied, and whoever replaces a file replaces the link.

    Any number of processes may do so at once. A cache is never worth an error: what cannot be linked is made anew.
    """
    if image is None:
        return
    try:
        for source in image.rglob("*"):
            if source.is_file():
                _link(source, cache / source.relative_to(image))
    except OSError as error:
        get("cache").warning("the image's caches are not used", problem=str(error))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        target.symlink_to(source)
