import base64

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram

from models.interface import ModelSpec, TensorSpec
from service.console.console import Console
from service.console.inputs import InputForm, form_of, read_budget
from service.console.live import LiveFeed, live_totals
from service.console.page import load_page
from service.console.views import classes
from service.errors import InvalidRequest, NotFound
from service.types import InferResponse, OutputTensor
from tests.support.tiny_gated import UNITS, TinyEmbedder, TinyGated


class DirectSource:
    """Runs each request at once, like the service's own direct executor."""

    server_name, server_version, ready = "swan-serve", "0.1.0", True

    def __init__(self, *models):
        self._models = models
        self.tenants = []

    def servables(self):
        return self._models

    async def infer(self, model, inputs, budget, tenant):
        self.tenants.append(tenant)
        answer = model.infer(inputs, np.array([budget or 1.0]))
        outputs = tuple(
            OutputTensor(item.name, item.datatype, answer.outputs[item.name]) for item in model.spec.outputs
        )
        parameters = {"quality_budget": budget or 1.0, "compute_macs": answer.reports[0].macs}
        return InferResponse(model.spec.name, model.spec.version, "1", outputs, parameters)


@pytest.fixture(scope="module")
def gated():
    return TinyGated()


@pytest.fixture
def console(gated):
    return Console(DirectSource(gated, TinyEmbedder()), LiveFeed(lambda: None, list))


def _pixels(gated, row=0):
    return base64.b64encode((gated.example(row + 1)["image"][row] * 255).round().astype(np.uint8).tobytes()).decode()


def test_the_overview_lists_models_with_their_curves_and_input_forms(console, gated):
    models = {model["name"]: model for model in console.overview()["models"]}
    curve = models["tiny-fashion"]["curve"]
    assert [point["budget"] for point in curve["points"]] == list(gated.table.budgets)
    assert curve["points"][-1]["quality"] == gated.table.points[-1].quality > 0.75
    assert models["tiny-fashion"]["input"] == {"kind": "image", "channels": 1, "height": 28, "width": 28}
    assert models["tiny-letters"]["curve"] is None and models["tiny-letters"]["input"]["kind"] == "text"


async def test_the_answer_and_the_units_are_those_of_this_input_at_this_budget(console, gated):
    rows = {}
    for budget in (0.1, 0.5, 1.0):
        answer = await console.infer({"model": "tiny-fashion", "budget": budget, "pixels": _pixels(gated)})
        (layer,) = answer["layers"]
        fired = np.frombuffer(base64.b64decode(layer["fired"]), np.uint8)
        direct = gated.infer(gated.example(1), np.array([budget]))
        assert len(fired) == UNITS and np.count_nonzero(fired) == layer["units_active"]
        assert layer["units_active"] == direct.reports[0].layers[0].units_active
        assert answer["parameters"]["quality_budget"] == budget
        scores = np.exp(direct.outputs["logits"][0])
        best = int(np.argmax(scores))
        assert answer["classes"][0]["label"] == gated.spec.labels[best]
        assert answer["classes"][0]["confidence"] == pytest.approx(scores[best] / scores.sum(), rel=1e-4)
        rows[budget] = fired > 0
    assert rows[0.1].sum() < rows[0.5].sum() < rows[1.0].sum()
    assert not np.any(rows[0.1] & ~rows[0.5]), "a unit that runs at a small budget runs at a larger one"


async def test_a_text_gives_its_vector_and_a_model_without_gates_has_no_layers(console):
    answer = await console.infer({"model": "tiny-letters", "text": "Abba ä"})
    assert answer["vector"][:3] == [2.0, 2.0, 0.0] and len(answer["vector"]) == 26
    assert answer["layers"] == []


async def test_the_tenant_of_the_key_pays(gated):
    source = DirectSource(gated)
    await Console(source, LiveFeed(lambda: None, list)).infer(
        {"model": "tiny-fashion", "pixels": _pixels(gated)}, tenant="shop"
    )
    assert source.tenants == ["shop"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], '"model"'),
        ({"model": 3}, '"model"'),
        ({"model": "tiny-fashion"}, "784 bytes"),
        ({"model": "tiny-fashion", "pixels": "AAAA"}, "784 bytes"),
        ({"model": "tiny-fashion", "pixels": "ä"}, "784 bytes"),
        ({"model": "tiny-fashion", "pixels": [1]}, "784 bytes"),
        ({"model": "tiny-letters", "text": ""}, "1 to 20000"),
        ({"model": "tiny-letters", "text": "\ud800"}, "surrogate"),
        ({"model": "tiny-letters", "text": "a", "budget": 2}, "budget"),
    ],
)
async def test_a_bad_body_is_refused_by_field(console, body, text):
    with pytest.raises(InvalidRequest, match=text):
        await console.infer(body)


async def test_an_unknown_model_is_not_found(console):
    with pytest.raises(NotFound):
        await console.infer({"model": "none"})
    with pytest.raises(NotFound):
        console.samples("none")


def test_samples_are_real_test_images_with_their_labels_or_texts(console, gated):
    samples = console.samples("tiny-fashion")["samples"]
    assert {sample["label"] for sample in samples} == set(gated.spec.labels)
    pixels = np.array([np.frombuffer(base64.b64decode(sample["pixels"]), np.uint8) for sample in samples])
    answers = gated.infer({"image": pixels.astype(np.float32) / 255}, np.ones(len(pixels))).outputs["logits"]
    right = np.mean([gated.spec.labels[i] == s["label"] for i, s in zip(answers.argmax(1), samples, strict=True)])
    assert right > 0.6, "labels belong to the images"
    assert all(s["text"] for s in console.samples("tiny-letters")["samples"])


def _spec(datatype, *shape):
    return ModelSpec("m", "1", "p", (TensorSpec("x", datatype, shape),), (), 1, 1.0)


@pytest.mark.parametrize(
    ("spec", "form"),
    [
        (_spec("FP32", 784), InputForm("image", 1, 28, 28)),
        (_spec("FP32", 28, 32), InputForm("image", 1, 28, 32)),
        (_spec("FP32", 3, 64, 48), InputForm("image", 3, 64, 48)),
        (_spec("FP32", 785), InputForm("none")),
        (_spec("FP32", -1), InputForm("none")),
        (_spec("FP32", 2, 28, 28), InputForm("none")),
        (_spec("FP32", 3, 4096, 4096), InputForm("none")),
        (_spec("INT64", 784), InputForm("none")),
        (_spec("BYTES", 1), InputForm("text")),
        (_spec("BYTES"), InputForm("text")),
        (_spec("BYTES", 4), InputForm("none")),
    ],
)
def test_the_form_follows_from_the_declared_input(spec, form):
    assert form_of(spec) == form


@settings(deadline=None, max_examples=40)
@given(st.one_of(st.none(), st.floats(), st.integers(), st.booleans(), st.text()))
def test_a_budget_is_none_or_in_0_to_1(value):
    try:
        budget = read_budget(value)
    except InvalidRequest:
        assert value is not None
        return
    assert budget is None or 0.0 < budget <= 1.0


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-50, 50), min_size=2, max_size=10))
def test_confidences_are_sorted_and_add_up_to_one(scores):
    found = classes(np.array(scores), tuple(str(i) for i in range(len(scores))))
    confidences = [item["confidence"] for item in found]
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1.0, abs=2e-3)
    assert scores[int(found[0]["label"])] == max(scores)


def test_live_totals_add_priorities_and_versions_up():
    registry = CollectorRegistry()
    labels = ("model", "version", "priority")
    requests = Counter("swan_requests_total", "x", (*labels, "outcome"), registry=registry)
    duration = Histogram("swan_request_duration_seconds", "x", labels, buckets=(0.01, 0.1), registry=registry)
    budget = Histogram("swan_request_budget_ratio", "x", labels[:2], buckets=(0.5, 1.0), registry=registry)
    Counter("swan_other_total", "x", ("model",), registry=registry).labels("m").inc()
    for version, priority, seconds in (("1", "high", 0.005), ("1", "low", 0.05), ("2", "low", 3.0)):
        requests.labels("m", version, priority, "late" if seconds > 1 else "ok").inc()
        duration.labels("m", version, priority).observe(seconds)
        budget.labels("m", version).observe(0.5)
    requests.labels("m", "1", "low", "shed").inc(4)
    requests.labels("m", "1", "low", "error").inc()
    (totals,) = live_totals(registry.collect()).values()
    assert (totals["answered"], totals["late"], totals["refused"], totals["failed"]) == (3, 1, 4, 1)
    assert totals["latency_bounds_s"] == [0.01, 0.1] and totals["latency_counts"] == [1, 1, 1]
    assert totals["budget_sum"] == 1.5 and totals["budget_count"] == 3
    assert totals["activity_count"] == 0


async def test_viewers_share_one_reading_of_the_metrics():
    now, reads = [0.0], []
    registry = CollectorRegistry()
    requests = Counter("swan_requests_total", "x", ("model", "outcome"), registry=registry).labels("m", "ok")

    def collect():
        reads.append(now[0])
        return registry.collect()

    feed = LiveFeed(requests.inc, collect, clock=lambda: now[0])
    for now[0], answered in ((0.0, 1), (0.4, 1), (0.6, 2)):
        read_s, totals = await feed.totals()
        assert totals["m"]["answered"] == answered and read_s == reads[-1]
    assert reads == [0.0, 0.6]


def test_the_page_loads_nothing_from_elsewhere_and_its_policy_covers_its_own_code():
    page = load_page()
    text, policy = page.body.decode(), page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert "innerHTML" not in text and "style=" not in text and "onclick=" not in text
    assert len(page.body) < 60_000
