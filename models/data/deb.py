"""Reads files out of a Debian package (an ar archive of tar archives) without dpkg, root or installation."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

AR_MAGIC = b"!<arch>\n"
AR_HEADER_BYTES = 60


def ar_members(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a Unix ar archive (common format, ar(5))."""
    if not raw.startswith(AR_MAGIC):
        raise ValueError("not an ar archive")
    at = len(AR_MAGIC)
    while at + AR_HEADER_BYTES <= len(raw):
        header = raw[at : at + AR_HEADER_BYTES]
        size = int(header[48:58])
        at += AR_HEADER_BYTES
        yield header[:16].decode("ascii").strip().rstrip("/"), raw[at : at + size]
        at += size + size % 2


def read_deb(path: Path, names: frozenset[str]) -> dict[str, bytes]:
    """File name (without folders) -> content, for the wanted regular files of a .deb's data archive."""
    for member, content in ar_members(path.read_bytes()):
        if member.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                return {
                    Path(item.name).name: _content(archive, item)
                    for item in archive
                    if item.isfile() and Path(item.name).name in names
                }
    raise ValueError(f"{path.name}: no data archive inside")


def _content(archive: tarfile.TarFile, item: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(item)
    assert file is not None  # a regular file, see the caller
    return file.read()
