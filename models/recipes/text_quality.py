"""How good embeddings are: retrieval short -> long description, and sections from frozen embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.data.descriptions import Description
from models.text import TextCodec

TextBatch = tuple[list[int], Tensor]


def text_batches(codec: TextCodec, texts: Sequence[str], rows: int = 16) -> list[TextBatch]:
    return [codec.encode_texts(texts[i : i + rows]) for i in range(0, len(texts), rows)]


def paired_texts(rows: Sequence[Description]) -> list[str]:
    """All short texts, then all long ones in the same order."""
    return [row.short for row in rows] + [row.long for row in rows]


def ranks(embeddings: Tensor) -> Tensor:
    """embeddings [2n, D] of n short and their n long texts -> [n] rank (1 = best) of the right long text."""
    short, long = embeddings.chunk(2)
    scores = short @ long.T
    return 1 + (scores > scores.diagonal()[:, None]).sum(1)


def recall_at_1(embeddings: Tensor) -> float:
    return float((ranks(embeddings) == 1).float().mean())


def retrieval(embeddings: Tensor) -> dict[str, float]:
    position = ranks(embeddings).float()
    return {
        "recall_at_1": float((position <= 1).float().mean()),
        "recall_at_10": float((position <= 10).float().mean()),
        "mrr": float((1 / position).mean()),
    }


def section_accuracy(
    train: Tensor, train_labels: Sequence[str], test: Tensor, test_labels: Sequence[str], steps: int = 200
) -> float:
    """Accuracy of a linear classifier (cross-entropy, L2, full-batch L-BFGS) on frozen embeddings [n, D]."""
    names = sorted(set(train_labels))
    target = torch.tensor([names.index(label) for label in train_labels])
    weight = torch.zeros(len(names), train.shape[1], requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        # 1 / (2 C n) with C = 10: the usual strength for unit-length sentence embeddings
        loss = F.cross_entropy(train @ weight.T + bias, target) + weight.square().sum() / (20.0 * len(train))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        predicted: list[int] = (test @ weight.T + bias).argmax(1).tolist()
    right = sum(int(names[i] == label) for i, label in zip(predicted, test_labels, strict=True))
    return right / len(predicted)
