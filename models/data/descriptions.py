"""Debian package descriptions: a frozen sample for retrieval and classification; splits share no source package."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

ASSET = "debian-descriptions.jsonl.gz"
SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True, slots=True)
class Description:
    """One binary package. short: its one-line synopsis; long: the first 500 characters of its description."""

    package: str
    source: str
    section: str
    split: str
    short: str
    long: str


def sample_descriptions(split: str = "test") -> Sequence[Description]:
    """The shipped sample's rows of one split: train, calibration or test. No network, no files outside the package."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    return [row for row in _all() if row.split == split]


@cache
def _all() -> tuple[Description, ...]:
    raw = (files("models.data") / "assets" / ASSET).read_bytes()
    return tuple(Description(**json.loads(line)) for line in gzip.decompress(raw).decode("utf-8").splitlines())
