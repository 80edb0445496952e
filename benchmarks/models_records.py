"""The JSON of `swan bench models`: one record for each network, budget, batch size and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.models_measure import Result


@dataclass(frozen=True, slots=True)
class Record:
    """quality: of `metric` on n test samples. macs, ms: per request. amdahl_share: speed-up over macs_dense / macs.

    activity_*: share of the gated units that ran, over requests; 1 for a network without gates.
    """

    model: str
    variant: str
    budget: float
    batch: int
    metric: str
    quality: float
    n: int
    activity_mean: float
    activity_p99: float
    macs: float
    macs_dense: float
    ms: float
    amdahl_share: float


def records_of(results: Sequence[Result]) -> list[Record]:
    """macs_dense and amdahl_share refer to the first result, the dense network."""
    dense = results[0]
    return [
        Record(
            model=result.contender.model,
            variant=result.variant,
            budget=result.budget,
            batch=batch,
            metric=metric,
            quality=quality,
            n=result.n,
            activity_mean=float(result.activities.mean()),
            activity_p99=float(np.quantile(result.activities, 0.99)),
            macs=result.macs,
            macs_dense=dense.macs,
            ms=ms,
            amdahl_share=(dense.ms[batch] / ms) / (dense.macs / result.macs),
        )
        for result in results
        for batch, ms in result.ms.items()
        for metric, quality in result.quality.items()
    ]
