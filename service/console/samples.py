"""Samples to click on: sentences for text models."""

from __future__ import annotations

from models.interface import ModelSpec
from service.console.inputs import form_of
from service.console.views import Json

TEXTS = (
    "Web browser that blocks advertisements and trackers",
    "lightweight graphical client to read pages on the World Wide Web",
    "Library for fast Fourier transforms in one or more dimensions",
    "Command line tool to convert audio files between formats",
    "Small game in which a penguin slides down a mountain",
    "Documentation and examples for the database server",
)


def samples_of(spec: ModelSpec) -> list[Json]:
    """Texts for a text model, else none."""
    form = form_of(spec)
    if form.kind == "text":
        return [{"label": text[:28] + "…", "text": text} for text in TEXTS]
    return []
