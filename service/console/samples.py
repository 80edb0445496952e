"""Samples to click on: real Fashion-MNIST test images, and sentences for text models."""

from __future__ import annotations

import base64
from functools import cache

import numpy as np

from models.data import fashion
from models.interface import ModelSpec
from service.console.inputs import form_of
from service.console.views import Json

SAMPLES_A_CLASS = 2
TEXTS = (
    "Web browser that blocks advertisements and trackers",
    "lightweight graphical client to read pages on the World Wide Web",
    "Library for fast Fourier transforms in one or more dimensions",
    "Command line tool to convert audio files between formats",
    "Small game in which a penguin slides down a mountain",
    "Documentation and examples for the database server",
)


def samples_of(spec: ModelSpec) -> list[Json]:
    """Images with their true label for a Fashion-MNIST classifier, texts for a text model, else none."""
    form = form_of(spec)
    if form.kind == "text":
        return [{"label": text[:28] + "…", "text": text} for text in TEXTS]
    if form.kind == "image" and spec.labels == fashion.LABELS and form.pixels == 784:
        return list(_fashion())
    return []


@cache
def _fashion() -> tuple[Json, ...]:
    """The first test images of each class, class by class in turn."""
    images = fashion.test_images()
    rows = [np.flatnonzero(images.labels == label)[:SAMPLES_A_CLASS] for label in range(len(fashion.LABELS))]
    return tuple(
        {
            "label": fashion.LABELS[images.labels[row]],
            "pixels": base64.b64encode(images.pixels[row].tobytes()).decode(),
        }
        for row in np.stack(rows, axis=1).reshape(-1)
    )
