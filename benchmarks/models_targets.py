"""What the packaged models promise (issue 3), and by how much each promise is kept or missed as measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.models_measure import Result


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: `margin` over it in its own unit, negative where missed; None where it could not be judged."""

    model: str
    target: str
    got: str
    margin: float | None

    @property
    def met(self) -> bool:
        return self.margin is not None and self.margin >= 0.0

    def __str__(self) -> str:
        word = "not judged" if self.margin is None else "pass" if self.met else "miss"
        by = "" if self.margin is None else f" by {abs(self.margin):.2f}"
        return f"{word}{by}: {self.model}: {self.target}: {self.got}"


def verdicts(results: Sequence[Result]) -> list[Verdict]:
    """Targets of this model. The first result is the dense network."""
    model = results[0].contender.model
    own: dict[str, Callable[[Sequence[Result]], Iterator[Verdict]]] = {
        "fashion-mlp": _fashion_mlp, "fashion-resnet": _fashion_resnet, "minilm-embedder": _minilm
    }  # fmt: skip
    return [*own.get(model, lambda _: iter(()))(results), *_common(results)]


def difficulty(results: Sequence[Result]) -> list[str]:
    """Activity on hard and on easy inputs, for each budget of the gated network."""
    return [
        f"{r.contender.model} at {r.budget:g}: activity {r.hard:.2%} on hard, {r.easy:.2%} on easy inputs"
        for r in _gated(results)
        if r.hard is not None and r.easy is not None
    ]


def _fashion_mlp(results: Sequence[Result]) -> Iterator[Verdict]:
    full, dense = _gated(results)[-1], results[0]
    yield _at_least(results, "accuracy at budget 1, %", 100 * _main(full), 89.9)
    yield _at_least(results, "accuracy at budget 1 minus the teacher's, points", 100 * (_main(full) - _main(dense)), 0)
    yield _loss(results, 10.0, 0.7)
    yield _speed_up(results, 10.0, 5.0)


def _fashion_resnet(results: Sequence[Result]) -> Iterator[Verdict]:
    yield _at_least(results, "accuracy of the dense network, %", 100 * _main(results[0]), 92.5)
    yield _loss(results, 2.5, 0.5)
    yield _speed_up(results, 2.5, 1.8)
    yield _loss(results, 5.0, 1.5)
    for r in _gated(results)[:-1]:
        if r.hard is not None and r.easy is not None:
            target = f"activity on hard minus on easy images at {r.budget:g}, points"
            yield _at_least(results, target, 100 * (r.hard - r.easy), 0)


def _minilm(results: Sequence[Result]) -> Iterator[Verdict]:
    """The FFN's MACs are all that no fixed part is; gates count as FFN."""
    dense = results[0]
    for share, loss, speed in ((0.5, 1.0, 1.3), (0.3, 3.0, 1.5)):
        fits = [r for r in _gated(results) if (r.macs - r.macs_fixed) <= share * (dense.macs - r.macs_fixed)]
        best = max(fits, key=_main, default=None)
        lost = None if best is None else 100 * (_main(dense) - _main(best))
        yield _at_most(results, f"R@1 points lost at {share:.0%} of the FFN's MACs", lost, loss)
        faster = None if best is None else dense.ms[1] / best.ms[1]
        yield _at_least(results, f"times faster at {share:.0%} of the FFN's MACs, 64 tokens, batch 1", faster, speed)


def _common(results: Sequence[Result]) -> Iterator[Verdict]:
    gated = _gated(results)
    falls = [100 * (_main(a) - _main(b)) for a, b in pairwise(gated)]
    target = "largest fall of quality where the budget rises, points, noise being one standard error"
    yield _at_most(results, target, max(falls, default=0.0), 100 * _standard_error(gated[-1]))
    statics = [r for r in results if r.variant == "static"]
    ahead = {r.macs: 100 * (_curve(gated, r.macs) - _main(r)) for r in statics}
    yield _at_least(
        results, "gated minus static of the same MACs, worst, points", min(ahead.values(), default=None), -0.2
    )
    if results[0].contender.model != "fashion-mlp":
        middle = np.median([r.macs for r in gated])
        lower = [value for macs, value in ahead.items() if macs <= middle]
        yield _at_least(results, "the same over the lower half of the budgets", min(lower, default=None), 0)
    singles = [r for r in results if r.variant == "single-budget"]
    ahead_of = [100 * (_curve(gated, r.macs) - _main(r)) for r in singles]
    yield _at_least(results, "gated minus single-budget network, worst, points", min(ahead_of, default=None), -0.3)


def _gated(results: Sequence[Result]) -> list[Result]:
    return sorted((r for r in results if r.variant == "gated"), key=lambda r: r.budget)


def _main(result: Result) -> float:
    """The metric that budgets are judged by."""
    return next(iter(result.quality.values()))


def _standard_error(result: Result) -> float:
    """Of a share measured on n samples."""
    quality = _main(result)
    return float(np.sqrt(quality * (1.0 - quality) / result.n))


def _curve(gated: Sequence[Result], macs: float) -> float:
    """Quality of the gated network at these MACs, linear between its budgets and flat beyond them."""
    return float(np.interp(macs, [r.macs for r in gated], [_main(r) for r in gated]))


def _cheap(results: Sequence[Result], factor: float) -> Result | None:
    """The best budget of at most the dense network's MACs / factor."""
    fits = [r for r in _gated(results) if r.macs * factor <= results[0].macs]
    return max(fits, key=_main, default=None)


def _loss(results: Sequence[Result], factor: float, limit: float) -> Verdict:
    best = _cheap(results, factor)
    lost = None if best is None else 100 * (_main(results[0]) - _main(best))
    return _at_most(results, f"points lost at {factor:g}x fewer MACs", lost, limit)


def _speed_up(results: Sequence[Result], factor: float, wanted: float) -> Verdict:
    best = _cheap(results, factor)
    faster = None if best is None else results[0].ms[1] / best.ms[1]
    return _at_least(results, f"times faster at batch 1 with {factor:g}x fewer MACs", faster, wanted)


def _at_least(results: Sequence[Result], target: str, got: float | None, limit: float) -> Verdict:
    margin = None if got is None else got - limit
    return Verdict(results[0].contender.model, f"{target}, at least {limit:g}", _shown(got), margin)


def _at_most(results: Sequence[Result], target: str, got: float | None, limit: float) -> Verdict:
    margin = None if got is None else limit - got
    return Verdict(results[0].contender.model, f"{target}, at most {limit:g}", _shown(got), margin)


def _shown(value: float | None) -> str:
    return "no such network here" if value is None else f"{value:.2f}"
