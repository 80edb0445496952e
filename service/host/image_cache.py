"""Caches that came with an image, brought to where this process may write: a container's own file system may not be."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from service.telemetry.log import get


def unpack(image: Path | None, cache: Path) -> None:
    """Copy what `cache` lacks. Any number of processes may do so at once: each file appears whole.

    A cache is never worth an error: what cannot be copied is made anew by whoever needs it.
    """
    if image is None:
        return
    try:
        for source in sorted(path for path in image.rglob("*") if path.is_file()):
            target = cache / source.relative_to(image)
            if not target.exists():
                _copy(source, target)
    except OSError as error:
        get("cache").warning("the image's caches are not used", problem=str(error))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as file:
        file.write(source.read_bytes())
    shutil.copystat(source, file.name)
    Path(file.name).replace(target)
