"""Builds the frozen sample of package descriptions from Debian's own index: `python -m models.data.debian_index OUT`.

Uses a private list folder, so that the machine's own package lists stay as they are. The index moves with each Debian
release; the sample that ships was built from bookworm on 2026-11-22.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from models.data.descriptions import Description, sample_descriptions
from models.data.fetch import FetchError

SECTIONS = frozenset(
    """admin comm database devel editors education electronics fonts games graphics hamradio mail math net science sound
    text utils video web x11""".split()  # noqa: SIM905 - a list of words reads better as words
)
"""Topics. Sections that a name gives away (haskell, rust, perl, libdevel, ...) would make classification trivial."""
ROWS = {"train": 2_500, "calibration": 500, "test": 1_500}
MAX_LONG = 500
SEED = 20261122


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """Fields of each stanza of a Debian control file; continuation lines keep their line breaks."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line[:1].isspace():
                fields[name] += "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def long_text(field: str) -> str:
    """A Description field without its synopsis and layout, cut at a word within MAX_LONG characters."""
    lines = [" " if line == "." else line for line in field.split("\n")[1:]]
    text = " ".join(" ".join(lines).split())
    return text if len(text) <= MAX_LONG else text[:MAX_LONG].rsplit(" ", 1)[0]


def candidates(packages: str, translations: str) -> list[Description]:
    """One row for each source package with a topical section and distinct, non-trivial texts, by source name."""
    longs = {item["Description-md5"]: item.get("Description-en", "") for item in stanzas(translations)}
    rows: dict[str, Description] = {}
    seen: set[str] = set()
    for item in stanzas(packages):
        source, section = item.get("Source", item["Package"]).split(" ")[0], item.get("Section", "")
        short = item.get("Description", "").split("\n")[0]
        long = long_text(longs.get(item.get("Description-md5", ""), ""))
        if source in rows or section not in SECTIONS or len(long) < 80 or long in seen or len(short) < 10:
            continue
        seen.add(long)
        rows[source] = Description(item["Package"], source, section, "", short, long)
    return [rows[source] for source in sorted(rows)]


def sample(rows: list[Description]) -> list[Description]:
    """Draw the splits by a fixed seed; one row a source package, so no split shares a source with another."""
    order = random.Random(SEED).sample(rows, sum(ROWS.values()))
    named = [split for split, count in ROWS.items() for _ in range(count)]
    return [
        Description(row.package, row.source, row.section, split, row.short, row.long)
        for row, split in zip(order, named, strict=True)
    ]


def training_pairs(packages: str, translations: str) -> list[tuple[str, str]]:
    """(short, long) texts of every package whose source is in neither held-out split, each long text once.

    Unlike the sample: every section and every binary package, as more text teaches more.
    """
    held_out = [row for split in ("calibration", "test") for row in sample_descriptions(split)]
    sources = {row.source for row in held_out}
    seen = {text for row in held_out for text in (row.short, row.long)}
    longs = {item["Description-md5"]: item.get("Description-en", "") for item in stanzas(translations)}
    pairs: list[tuple[str, str]] = []
    for item in stanzas(packages):
        source = item.get("Source", item["Package"]).split(" ")[0]
        short = item.get("Description", "").split("\n")[0]
        long = long_text(longs.get(item.get("Description-md5", ""), ""))
        if source in sources or len(short) < 10 or len(long) < 40 or short in seen or long in seen:
            continue
        seen.add(long)
        pairs.append((short, long))
    return pairs


def index_of(folder: Path | None) -> tuple[str, str]:
    """(Packages, Translation-en) of Debian main: from a folder of apt's lists, or by `apt-get update`. FetchError."""
    if folder is not None:
        return _lists(folder)
    with tempfile.TemporaryDirectory() as scratch:
        return read_index(Path(scratch) / "lists")


def read_index(folder: Path) -> tuple[str, str]:
    """(Packages, Translation-en) of Debian main by one `apt-get update` into `folder`."""
    (folder / "partial").mkdir(parents=True)
    options = ["-o", "Acquire::Languages=en", "-o", f"Dir::State::lists={folder}", "-o", "APT::Sandbox::User=root"]
    try:
        subprocess.run(["apt-get", "update", "-q", *options], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise FetchError(f"Debian's package index cannot be read here: {error}; or pass --data DIR") from None
    return _lists(folder)


def _lists(folder: Path) -> tuple[str, str]:
    try:
        return _cat(folder, "*_main_binary-*_Packages*"), _cat(folder, "*_main_i18n_Translation-en*")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise FetchError(f"{folder}: no lists of apt with Translation-en that can be read: {error}") from None


def _cat(folder: Path, pattern: str) -> str:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FetchError(f"{folder}: expected files {pattern}, found none")
    command = ["/usr/lib/apt/apt-helper", "cat-file", *map(str, found)]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode("utf-8")


def main(out: Path) -> None:
    rows = sample(candidates(*index_of(None)))
    lines = "\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows)
    out.write_bytes(gzip.compress(lines.encode("utf-8"), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
