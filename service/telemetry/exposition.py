"""GET /metrics: every replica process of this node in one text, dead ones folded in, plus Triton's `nv_` names."""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, generate_latest, mmap_dict, multiprocess
from prometheus_client.metrics_core import Metric

from service.telemetry.triton_names import triton_text

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MmapedDict: Any = mmap_dict.MmapedDict  # prometheus_client leaves these three without types
_MultiProcessCollector: Any = multiprocess.MultiProcessCollector
_mark_process_dead: Any = multiprocess.mark_process_dead
FOLDED_PID = 0  # what dead replicas have counted lives on under this process id


def render(registry: CollectorRegistry, folder: Path | None = None) -> bytes:
    """The text for one scrape. folder: shared by the replica processes of a node (PROMETHEUS_MULTIPROC_DIR)."""
    collected = _Collected(collect(registry, folder))
    return generate_latest(collected) + triton_text(collected.families).encode()


def collect(registry: CollectorRegistry, folder: Path | None = None) -> list[Metric]:
    """The families of this process, or with a folder of all replica processes of the node."""
    return list(registry.collect()) if folder is None else _collect(folder)


class _Collected:
    """A collector of what was collected already, so that files are read once a scrape."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)
        for family in self.families:  # OpenMetrics' creation times would double the number of series
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]

    def collect(self) -> Iterable[Metric]:
        return self.families


def _collect(folder: Path) -> list[Metric]:
    with _locked(folder):
        _fold_dead(folder)
        return list(_MultiProcessCollector(None, path=str(folder)).collect())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One scrape of this node at a time: folding must not be seen half done."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fold_dead(folder: Path) -> None:
    """Drop the live gauges of dead processes and add their counters and histograms to one file a kind.

    Sums stay exact and the number of files stays bounded however many replicas come and go.
    """
    for path in folder.glob("*_*.db"):
        kind, _, text = path.stem.rpartition("_")
        pid = int(text)
        if pid == FOLDED_PID or psutil.pid_exists(pid):
            continue
        if kind.startswith("gauge_"):
            _mark_process_dead(pid, path=str(folder))
        else:
            _add_into(folder / f"{kind}_{FOLDED_PID}.db", path)
            path.unlink()


def _add_into(target: Path, source: Path) -> None:
    total = _MmapedDict(str(target))
    try:
        for key, value, _, _ in _MmapedDict.read_all_values_from_file(str(source)):
            total.write_value(key, total.read_value(key)[0] + value, 0.0)
    finally:
        total.close()
