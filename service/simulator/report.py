"""Runs policies over shapes and seeds, and reduces every run to one record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.control.rivals import Aimd, Dimmer, SlackFit
from service.control.types import ModelPlan, Policy
from service.simulator.clairvoyant import clairvoyant
from service.simulator.engine import Run, Simulator
from service.simulator.plant import Plant
from service.simulator.shapes import SHAPES, Scale, Shape, make_workload
from service.simulator.workload import Traffic, Workload, equal_deadlines

STATIC_BUDGETS = tuple(round(0.1 * i, 1) for i in range(1, 11))
BAD_SECOND_MISSES = 0.01


@dataclass(frozen=True, slots=True)
class Record:
    """One run. Ratios are of all requests, refused ones included; p99 of the answered ones, over the deadline too.

    goodput_ratio: on-time answers / (what was offered, at most what the machine could serve at the floor).
    normalised_accuracy: effective accuracy on a scale from 0 = floor to 1 = full budget. bad_seconds: windows of 1 s
    with more than 1 % misses. refusal_ratio: 99th percentile of the time to a refusal, in deadlines of the request.
    bound: the clairvoyant's accuracy (of `clairvoyant` records, and to compute regret).
    """

    policy: str
    shape: str
    seed: int
    attainment: float
    effective_accuracy: float
    accuracy_floor: float
    accuracy_full: float
    goodput_ratio: float
    late_ratio: float
    p99_s: float
    normalised_accuracy: float
    mean_budget: float
    budget_jitter: float
    bad_seconds: int
    refused_ratio: float
    refusal_ratio: float
    num_requests: int


PolicyFactory = Callable[[ModelPlan], Policy]

POLICIES: dict[str, PolicyFactory] = {
    "drain-feasible": lambda plan: DrainFeasible([plan]),
    "full": lambda plan: Fixed([plan], plan.max_budget),
    "floor": lambda plan: Fixed([plan], plan.min_budget),
    "slackfit-0": lambda plan: SlackFit(plan, 0.0),
    "slackfit-10": lambda plan: SlackFit(plan, 0.1),
    "slackfit-20": lambda plan: SlackFit(plan, 0.2),
    "slackfit-30": lambda plan: SlackFit(plan, 0.3),
    "slackfit-30-adapted": lambda plan: SlackFit(plan, 0.3, adapted=True),
    "dimmer": Dimmer,
    "dimmer-tuned": lambda plan: Dimmer(plan, 0.3, pole=0.5, period_s=0.4 * plan.default_deadline_s, window=10),
    "aimd": Aimd,
    "aimd-tuned": lambda plan: Aimd(plan, 0.4 * plan.default_deadline_s, 0.3),
}
STATIC = "best-static"
CLAIRVOYANT = "clairvoyant"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What to simulate: one model on one replica. duration_s: of one run.

    in_batches: 1x of load is what full batches at full budget serve; else, as in the published comparison, what one
    request at a time does, which for a model that gains much by batching is hardly any load.
    """

    plant: Plant
    traffic: Traffic
    workers: int = 1
    duration_s: float = 60.0
    in_batches: bool = False

    @property
    def scale(self) -> Scale:
        plant, plan = self.plant, self.plant.plan
        full = plant.capacity(plan.max_budget) if self.in_batches else 1.0 / plant.profile.seconds(plan.max_budget, 1)
        return Scale(self.workers * full, self.workers * max(full, plant.capacity(plan.min_budget)))

    def workload(self, name: str, seed: int, shape: Shape | None = None) -> Workload:
        return make_workload(name, shape or SHAPES[name], self.scale, self.traffic, seed, self.duration_s)

    def simulate(self, policy: Policy, workload: Workload, seed: int) -> Run:
        return Simulator([self.plant], policy, self.workers, seed).run(workload)


def scenario_for(plant: Plant, **changes: object) -> Scenario:
    """Equal deadlines of the model's default."""
    traffic = equal_deadlines(plant.plan.name, plant.plan.default_deadline_s, plant.intensity_sigma)
    return Scenario(plant, traffic, **changes)  # type: ignore[arg-type]


def simulate_all(
    scenario: Scenario, policies: Sequence[str], shapes: Sequence[str], seeds: Iterable[int]
) -> Iterator[tuple[Record, Run | None]]:
    """Every policy on every shape and seed, with the same arrivals and inputs for all; the run where there is one."""
    for seed in seeds:
        for shape in shapes:
            workload = scenario.workload(shape, seed)
            for name in policies:
                yield _one(scenario, name, workload, seed)


def _one(scenario: Scenario, name: str, workload: Workload, seed: int) -> tuple[Record, Run | None]:
    plan = scenario.plant.plan
    if name == CLAIRVOYANT:
        return _bound(scenario, workload, seed), None
    if name == STATIC:
        runs = [scenario.simulate(Fixed([plan], b), workload, seed) for b in STATIC_BUDGETS if b >= plan.min_budget]
        records = [record_of(run, STATIC, seed, scenario) for run in runs]
        best = max(range(len(runs)), key=lambda i: records[i].effective_accuracy)
        return records[best], runs[best]
    run = scenario.simulate(POLICIES[name](plan), workload, seed)
    return record_of(run, name, seed, scenario), run


def record_of(run: Run, policy: str, seed: int, scenario: Scenario) -> Record:
    """Reduce a run."""
    plant, n = scenario.plant, max(1, len(run.served) + len(run.refused))
    on_time = [answer for answer in run.served if answer.on_time]
    effective = sum(answer.quality for answer in on_time) / n
    low, full = plant.quality_floor, plant.quality_full
    feasible = min(n, scenario.scale.floor * run.workload.duration_s)
    budgets = [budget for _, _, budget, _, _ in run.decisions]
    steps = [abs(b - a) for a, b in pairwise(budgets)]
    return Record(
        policy=policy,
        shape=run.workload.name,
        seed=seed,
        attainment=len(on_time) / n,
        effective_accuracy=effective,
        accuracy_floor=low,
        accuracy_full=full,
        goodput_ratio=len(on_time) / max(feasible, 1.0),
        late_ratio=(len(run.served) - len(on_time)) / n,
        p99_s=quantile([answer.finish_s - answer.arrival_s for answer in run.served], 0.99),
        normalised_accuracy=(effective - low) / max(full - low, 1e-12),
        mean_budget=sum(answer.budget for answer in run.served) / max(1, len(run.served)),
        budget_jitter=sum(steps) / max(1, len(steps)),
        bad_seconds=_bad_seconds(run),
        refused_ratio=len(run.refused) / n,
        refusal_ratio=quantile([(r.refused_s - r.arrival_s) / (r.deadline_s - r.arrival_s) for r in run.refused], 0.99),
        num_requests=n,
    )


def _bound(scenario: Scenario, workload: Workload, seed: int) -> Record:
    plant = scenario.plant
    on_time, quality = clairvoyant(plant, workload, scenario.workers)
    low, full = plant.quality_floor, plant.quality_full
    normalised = (quality - low) / max(full - low, 1e-12)
    n = len(workload.requests)
    shape = workload.name
    return Record(
        CLAIRVOYANT, shape, seed, on_time, quality, low, full, 1.0, 0.0, 0.0, normalised, 0.0, 0.0, 0, 0.0, 0.0, n
    )


def _bad_seconds(run: Run) -> int:
    total: dict[int, int] = {}
    missed: dict[int, int] = {}
    for answer in run.served:
        second = int(answer.arrival_s)
        total[second] = total.get(second, 0) + 1
        missed[second] = missed.get(second, 0) + (not answer.on_time)
    for refused in run.refused:
        second = int(refused.arrival_s)
        total[second] = total.get(second, 0) + 1
        missed[second] = missed.get(second, 0) + 1
    return sum(missed[second] > BAD_SECOND_MISSES * total[second] for second in total)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def as_json(records: Iterable[Record]) -> list[dict[str, object]]:
    return [asdict(record) for record in records]


@dataclass(frozen=True, slots=True)
class Summary:
    """One policy over all its runs. regret: mean gap to the bound in shares of the accuracy range, if it was run."""

    policy: str
    attainment: float
    worst: float
    effective_accuracy: float
    normalised_accuracy: float
    misses: float
    late_ratio: float
    p99_s: float
    bad_seconds: float
    budget_jitter: float
    regret: float | None


def summarise(records: Sequence[Record]) -> list[Summary]:
    """One line a policy, in order of first appearance."""
    bounds = {(r.shape, r.seed): r.normalised_accuracy for r in records if r.policy == CLAIRVOYANT}
    return [
        _summary(name, [r for r in records if r.policy == name], bounds)
        for name in dict.fromkeys(r.policy for r in records)
    ]


def _summary(name: str, runs: Sequence[Record], bounds: dict[tuple[str, int], float]) -> Summary:
    def mean(values: Iterable[float]) -> float:
        return sum(values) / len(runs)

    attainment = mean(r.attainment for r in runs)
    regret = mean(bounds[r.shape, r.seed] - r.normalised_accuracy for r in runs) if bounds else None
    return Summary(
        policy=name,
        attainment=attainment,
        worst=min(r.attainment for r in runs),
        effective_accuracy=mean(r.effective_accuracy for r in runs),
        normalised_accuracy=mean(r.normalised_accuracy for r in runs),
        misses=1.0 - attainment,
        late_ratio=mean(r.late_ratio for r in runs),
        p99_s=mean(r.p99_s for r in runs),
        bad_seconds=mean(r.bad_seconds for r in runs),
        budget_jitter=mean(r.budget_jitter for r in runs),
        regret=regret,
    )
