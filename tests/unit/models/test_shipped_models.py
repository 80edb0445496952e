"""The shipped packages as a server sees them: rows independent, mixed budgets, quality and compute as calibrated."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data import fashion
from models.interface import ServableModel, ShowsUnits
from models.registry import find_package, find_packages, load_package, shipped_repository
from swan_runtime.errors import InvalidInputError

IMAGE_MODELS = [path.parent.name for path in find_packages(shipped_repository()) if path.parent.name.startswith("fash")]
budget = st.sampled_from([0.05, 0.1, 0.23, 0.5, 1.0])


@cache
def served(name: str) -> ServableModel:
    return load_package(find_package(shipped_repository(), name))


def answer(model: ServableModel, rows: Sequence[int], budgets: Sequence[float]) -> tuple[np.ndarray, list[int]]:
    pixels = fashion.test_images().take(np.array(rows, dtype=np.int64)).scaled()
    output = model.infer({"INPUT": pixels}, np.array(budgets))
    return output.outputs["PROBABILITIES"], [report.macs for report in output.reports]


def test_the_default_model_ships() -> None:
    assert "fashion-mlp" in IMAGE_MODELS


@pytest.mark.parametrize("name", IMAGE_MODELS)
@settings(max_examples=8, deadline=None)
@given(requests=st.lists(st.tuples(st.integers(0, 9_999), budget), min_size=1, max_size=9))
def test_any_batch_equals_its_rows_one_by_one(name: str, requests: list[tuple[int, float]]) -> None:
    model = served(name)
    rows, budgets = zip(*requests, strict=True)
    together, macs = answer(model, rows, budgets)
    for i, (row, wanted) in enumerate(requests):
        alone, macs_alone = answer(model, [row], [wanted])
        np.testing.assert_allclose(together[i], alone[0], atol=2e-4)
        # a score within rounding of its threshold may fall either way, so a unit or two may differ
        assert macs[i] == pytest.approx(macs_alone[0], rel=0.01)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_accuracy_and_compute_on_test_images_are_those_of_the_table(name: str) -> None:
    model = served(name)
    assert model.table is not None
    labels = fashion.test_images().labels[:2000]
    for point in (model.table.points[0], model.table.points[-1]):
        probabilities, macs = answer(model, range(2000), [point.budget] * 2000)
        np.testing.assert_allclose(probabilities.sum(1), 1.0, atol=1e-5)
        # two held-out samples of at least 1,000 and 2,000 images: standard error up to 1.6 points
        assert float((probabilities.argmax(1) == labels).mean()) == pytest.approx(point.quality, abs=0.05)
        assert np.mean(macs) == pytest.approx(point.macs_mean, rel=0.05)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_less_budget_costs_less(name: str) -> None:
    model = served(name)
    costs = [np.mean(answer(model, range(64), [b] * 64)[1]) for b in (0.05, 0.2, 0.5, 1.0)]
    assert costs == sorted(costs) and costs[0] < costs[-1] / 2


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_threads_do_not_disturb_each_other(name: str) -> None:
    model = served(name)
    wanted = [answer(model, [i], [0.3])[0] for i in range(16)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda i: answer(model, [i], [0.3])[0], range(16)))
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_units_that_fired_are_those_that_were_counted(name: str) -> None:
    model = served(name)
    assert isinstance(model, ShowsUnits)
    inputs = {"INPUT": fashion.test_images().scaled()[:1]}
    report = model.infer(inputs, np.array([0.3])).reports[0]
    fired = model.fired_units(inputs, 0.3)
    assert {layer.name: layer.units_active for layer in report.layers} == {n: int(f.sum()) for n, f in fired.items()}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_bad_values_are_refused(name: str) -> None:
    model = served(name)
    pixels = np.zeros((1, 784), dtype=np.float32)
    with pytest.raises(InvalidInputError, match="budget"):
        model.infer({"INPUT": pixels}, np.array([0.0]))
    pixels[0, 5] = np.nan
    with pytest.raises(InvalidInputError, match="finite"):
        model.infer({"INPUT": pixels}, np.array([1.0]))


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_warm_up_and_example(name: str) -> None:
    model = served(name)
    model.warm_up()
    assert model.example(3)["INPUT"].shape == (3, 784)
    assert len(model.fingerprint) == 64
