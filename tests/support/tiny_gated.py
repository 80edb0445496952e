"""Tiny real servable models in numpy: a gated classifier fitted on Fashion-MNIST in a second, and a text embedder."""

from __future__ import annotations

from functools import cache

import numpy as np

from models.data import fashion
from models.interface import ModelOutput, ModelSpec, TensorSpec
from swan_runtime.budget import BudgetPoint, CalibrationTable, fingerprint_bytes
from swan_runtime.report import ComputeReport, LayerReport

UNITS = 256
NUM_IMAGES = 2000  # enough for four right answers of five, and fitted in a blink on a busy machine
BUDGETS = (0.1, 0.25, 0.5, 0.75, 1.0)


@cache
def _fitted():
    """Random features, least squares: (features [784, units], read-out [units, 10], scores [n, units], labels)."""
    images = fashion.test_images().take(slice(NUM_IMAGES))
    features = np.random.default_rng(1).normal(size=(784, UNITS)).astype(np.float32) / 28
    hidden = np.maximum((images.scaled() - fashion.MEAN) / fashion.STD @ features, 0.0)
    targets = np.eye(10, dtype=np.float32)[images.labels]
    gram = hidden.T @ hidden + 10.0 * np.eye(UNITS, dtype=np.float32)
    return features, np.linalg.solve(gram, hidden.T @ targets).astype(np.float32), hidden, images.labels


class TinyGated:
    """One hidden layer; a unit runs iff its activation is above the budget's threshold."""

    def __init__(self) -> None:
        self._features, self._readout, scores, labels = _fitted()
        self.spec = ModelSpec(
            name="tiny-fashion",
            version="1",
            platform="numpy",
            inputs=(TensorSpec("image", "FP32", (784,)),),
            outputs=(TensorSpec("logits", "FP32", (10,)),),
            max_batch_size=16,
            default_deadline_s=1.0,
            labels=fashion.LABELS,
            description="Random features on Fashion-MNIST",
        )
        self.fingerprint = fingerprint_bytes(self._features.tobytes())
        self.table = self._calibrate(scores, labels)

    def _calibrate(self, scores, labels):
        points, best = [], 0.0
        for budget in BUDGETS:
            threshold = float(np.quantile(scores, 1.0 - budget)) if budget < 1.0 else -1.0
            mask = scores > threshold
            best = max(best, float(np.mean(np.argmax(scores * mask @ self._readout, axis=1) == labels)))
            activity = mask.mean(axis=1)
            macs = 794.0 * mask.sum(axis=1)
            points.append(
                BudgetPoint(
                    budget=budget,
                    thresholds={"hidden": threshold},
                    activity_mean=float(activity.mean()),
                    activity_p50=float(np.median(activity)),
                    activity_p99=float(np.quantile(activity, 0.99)),
                    macs_mean=float(macs.mean()),
                    macs_p99=float(np.quantile(macs, 0.99)),
                    quality=best,
                )
            )
        return CalibrationTable("tiny-fashion", self.fingerprint, "accuracy", len(labels), 794.0 * UNITS, tuple(points))

    def warm_up(self) -> None:
        self.infer(self.example(1), np.ones(1))

    def example(self, rows):
        return {"image": fashion.test_images().scaled()[:rows]}

    def _mask(self, inputs, budgets):
        hidden = np.maximum((inputs["image"] - fashion.MEAN) / fashion.STD @ self._features, 0.0)
        thresholds = np.array([self.table.at(budget).thresholds["hidden"] for budget in budgets])
        return hidden, hidden > thresholds[:, None]

    def infer(self, inputs, budgets):
        hidden, mask = self._mask(inputs, budgets)
        reports = tuple(
            ComputeReport(float(budget), (LayerReport("hidden", n, UNITS, 794 * n, 0, 794 * UNITS, "numpy"),))
            for budget, n in zip(budgets, mask.sum(axis=1).tolist(), strict=True)
        )
        return ModelOutput({"logits": 10.0 * (hidden * mask @ self._readout)}, reports)

    def fired_units(self, inputs, budget):
        return {"hidden": self._mask(inputs, [budget])[1][0].astype(np.float32)}


class TinyEmbedder:
    """Letter counts as an embedding; no gates, no units to show."""

    table = None
    fingerprint = "letters"
    spec = ModelSpec(
        name="tiny-letters",
        version="1",
        platform="numpy",
        inputs=(TensorSpec("text", "BYTES", (1,)),),
        outputs=(TensorSpec("embedding", "FP32", (26,)),),
        max_batch_size=16,
        default_deadline_s=1.0,
    )

    def warm_up(self) -> None:
        self.infer(self.example(1), np.ones(1))

    def example(self, rows):
        return {"text": np.full((rows, 1), b"example", dtype=np.object_)}

    def infer(self, inputs, budgets):
        texts = [row.lower() for row in inputs["text"].reshape(-1)]
        counts = np.array([[text.count(bytes([97 + i])) for i in range(26)] for text in texts], dtype=np.float32)
        return ModelOutput({"embedding": counts}, tuple(ComputeReport(float(b), (), 26) for b in budgets))
