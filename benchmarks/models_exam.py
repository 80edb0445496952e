"""What each packaged model is asked in `swan bench models`: its test data, how answers are marked, what is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from models.data.descriptions import Description, sample_descriptions
from models.data.fashion import test_images
from models.recipes.text_quality import paired_texts, retrieval, section_accuracy
from models.text import TextCodec

Inputs = tuple[Any, ...]
TIMED_TOKENS = 64
"""Length of a text in the batch-1 timing: the issue states its target there."""
HARD_MARGIN = 0.3
"""An image is hard if it is misclassified or its two best probabilities are less than this apart."""


class Exam(Protocol):
    """batches: all test inputs in bulk; requests: batch size -> different requests of that size, for timing.

    metrics: names, the one that budgets are judged by first; n: questions.
    """

    batches: Sequence[Inputs]
    requests: Mapping[int, Sequence[Inputs]]
    metrics: tuple[str, ...]
    n: int

    def mark(self, outputs: Tensor) -> dict[str, float]:
        """Outputs of `batches`, in their order -> a value for each metric."""

    def hard(self, outputs: Tensor) -> Tensor | None:
        """[rows] bool, True where the model found the input hard; None where that is not defined."""


class ImageExam:
    """Fashion-MNIST test images, accuracy."""

    metrics = ("accuracy",)

    def __init__(self, images: int, bulk_rows: int = 250) -> None:
        taken = test_images().take(slice(0, images))
        pixels = torch.from_numpy(taken.scaled())
        self.labels = torch.from_numpy(taken.labels.copy())
        self.n = len(taken)
        self.batches: list[Inputs] = [(part,) for part in pixels.split(bulk_rows)]
        self.requests = {1: [(row[None],) for row in pixels[:64]], 16: [(part,) for part in pixels[:256].split(16)]}

    def mark(self, outputs: Tensor) -> dict[str, float]:
        return {"accuracy": float((outputs.argmax(1) == self.labels).float().mean())}

    def hard(self, outputs: Tensor) -> Tensor:
        best = outputs.softmax(1).topk(2).values
        return (outputs.argmax(1) != self.labels) | (best[:, 0] - best[:, 1] < HARD_MARGIN)


@dataclass(frozen=True)
class _Split:
    """Positions of the packages that a section classifier learns from and is tested on; no source package in both."""

    train: list[int]
    test: list[int]

    @staticmethod
    def of(rows: Sequence[Description]) -> _Split:
        sources = sorted({row.source for row in rows})
        order = np.random.default_rng(0).permutation(len(sources))
        learns = {sources[i] for i in order[: len(sources) * 2 // 3]}
        train = [i for i, row in enumerate(rows) if row.source in learns]
        return _Split(train, [i for i, row in enumerate(rows) if row.source not in learns])


class TextExam:
    """Retrieval short -> long description, cosine to the original, sections from frozen embeddings of long texts."""

    metrics = ("recall_at_1", "recall_at_10", "mrr", "cosine", "section_accuracy")

    def __init__(self, codec: TextCodec, packages: int, bulk_rows: int = 32) -> None:
        rows = sample_descriptions("test")[:packages]
        self.sections, self._split, self.n = [row.section for row in rows], _Split.of(rows), len(rows)
        texts = [codec.encode_texts([text]) for text in paired_texts(rows)]
        # by length, so that a padded network does not pay for padding
        self._order = sorted(range(len(texts)), key=lambda i: texts[i][0][0])
        chosen = [texts[i] for i in self._order]
        self.batches: list[Inputs] = [_join(chosen[i : i + bulk_rows]) for i in range(0, len(chosen), bulk_rows)]
        long = [text for text in texts if text[0][0] >= TIMED_TOKENS]
        self.requests = {
            1: [([TIMED_TOKENS], ids[:TIMED_TOKENS]) for _, ids in long[:16]],
            16: [_join(texts[-16 * (i + 1) :][:16]) for i in range(min(4, packages // 16))],
        }
        self.reference: Tensor | None = None

    def mark(self, outputs: Tensor) -> dict[str, float]:
        """The first outputs marked are the original's: cosines are to them."""
        embeddings = torch.empty_like(outputs)
        embeddings[torch.tensor(self._order)] = outputs
        if self.reference is None:
            self.reference = embeddings
        long = embeddings.chunk(2)[1]
        train, test = self._split.train, self._split.test
        sections = section_accuracy(
            long[train], [self.sections[i] for i in train], long[test], [self.sections[i] for i in test]
        )
        cosine = float(torch.cosine_similarity(embeddings, self.reference).mean())
        return {**retrieval(embeddings), "cosine": cosine, "section_accuracy": sections}

    def hard(self, outputs: Tensor) -> None:
        return None


def padded(lengths: Sequence[int], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Ragged token ids -> (ids [B, T], valid [B, T] bool)."""
    rows = torch.nn.utils.rnn.pad_sequence(list(ids.split(list(lengths))), batch_first=True)
    return rows, torch.arange(rows.shape[1]) < torch.as_tensor(lengths)[:, None]


def _join(texts: Sequence[tuple[list[int], Tensor]]) -> tuple[list[int], Tensor]:
    return [length for lengths, _ in texts for length in lengths], torch.cat([ids for _, ids in texts])
