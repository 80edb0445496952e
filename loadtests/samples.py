"""Real inputs for a model, chosen by what its metadata declares, and how an answer to each is scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.answers import Answer, Outcome
from loadtests.payloads import InputSpec, Sample


def samples_for(spec: InputSpec, count: int, seed: int = 0) -> list[Sample]:
    """`count` labelled Fashion-MNIST test images, or package descriptions for a model that takes text."""
    rng = np.random.default_rng(seed)
    if spec.datatype == "BYTES":
        from models.data.descriptions import sample_descriptions

        texts = sample_descriptions()
        picks = rng.permutation(len(texts))[:count]
        return [Sample(np.array(texts[i].long.encode(), dtype=object).reshape(spec.shape), None) for i in picks]
    from models.data.fashion import test_images

    images = test_images()
    if int(np.prod(spec.shape)) != images.pixels.shape[1]:
        raise ValueError(f"no data at hand for an input of shape {list(spec.shape)}; load tests know [784] and BYTES")
    picks = rng.permutation(len(images))[:count]
    chosen = images.take(picks)
    rows = zip(chosen.scaled(), chosen.labels, strict=True)
    return [Sample(row.reshape(spec.shape), int(label)) for row, label in rows]


@dataclass(frozen=True, slots=True)
class Scorer:
    """1.0 for the right class, 0.0 for a wrong one; cosine with the full-quality answer where there is no label."""

    samples: Sequence[Sample]
    references: Sequence[NDArray[np.float32]] = ()

    def __call__(self, index: int, answer: Answer) -> float:
        if answer.outcome != Outcome.OK or answer.output is None:
            return float("nan")
        position = index % len(self.samples)
        label = self.samples[position].label
        if label is not None:
            return float(int(np.argmax(answer.output)) == label)
        if not self.references:
            return float("nan")
        reference = self.references[position]
        norms = float(np.linalg.norm(reference) * np.linalg.norm(answer.output))
        return float(np.dot(reference, answer.output)) / norms if norms else 0.0
