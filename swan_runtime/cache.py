"""Where compiled kernels, measured costs and service times are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """The user's cache directory of this project: $XDG_CACHE_HOME/swan-serve, else ~/.cache/swan-serve."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "swan-serve"
