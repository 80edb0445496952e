"""What the original encoder shows its gated copy: its embeddings, and what its feed-forward blocks saw."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.data.debian_index import index_of, training_pairs
from models.data.descriptions import sample_descriptions
from models.gated_encoder import EncoderLayer, GatedEncoder
from models.text import TextCodec

PAIRS = 4000
MAX_TOKENS = 64
"""Longer training texts are cut here: half the cost of the 128 that are served."""
TOKENS = 8
"""Tokens of each text that a block is trained on: many texts teach the gates more than many tokens of few."""
BATCH_ROWS = 32


@dataclass(frozen=True, slots=True)
class BlockInputs:
    """What one feed-forward block sees. tokens: bfloat16 [n, TOKENS, D], a sample; means: [n, D] over all tokens."""

    tokens: Tensor
    means: Tensor


@dataclass(frozen=True, slots=True)
class Lessons:
    """Pairs of texts, first all short ones, then all long ones. ids: token ids of each text; embeddings: [2n, D]."""

    ids: list[Tensor]
    embeddings: Tensor
    blocks: list[BlockInputs]

    @property
    def num_pairs(self) -> int:
        return len(self.ids) // 2


def pairs_to_learn_from(data: Path | None, seed: int, quick: bool) -> list[tuple[str, str]]:
    """(short, long) texts outside the held-out splits. data: a folder of apt's lists, None = apt. Raises FetchError."""
    if quick:
        return [(row.short, row.long) for row in sample_descriptions("train")[:32]]
    return random.Random(seed).sample(training_pairs(*index_of(data)), PAIRS)


@torch.no_grad()
def learn_from(original: GatedEncoder, codec: TextCodec, pairs: Sequence[tuple[str, str]], seed: int) -> Lessons:
    """Run the original over all texts once."""
    source = torch.Generator().manual_seed(seed)
    texts = [pair[0] for pair in pairs] + [pair[1] for pair in pairs]
    lengths, joined = codec.encode_texts(texts)
    ids = [row[:MAX_TOKENS] for row in torch.split(joined, lengths)]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # texts of a length together: no padding in attention
    blocks = encoder_layers(original)
    tokens: list[list[Tensor]] = [[] for _ in blocks]
    means: list[list[Tensor]] = [[] for _ in blocks]
    embeddings = []
    handles = [
        layer.ffn.register_forward_pre_hook(_keep(tokens[i], means[i], source)) for i, layer in enumerate(blocks)
    ]
    try:
        for start in range(0, len(order), BATCH_ROWS):
            rows = [ids[i] for i in order[start : start + BATCH_ROWS]]
            with torch.autocast("cpu", torch.bfloat16):
                embeddings.append(original([len(row) for row in rows], torch.cat(rows)).float())
    finally:
        for handle in handles:
            handle.remove()
    back = torch.tensor(order).argsort()
    seen = [BlockInputs(torch.cat(t)[back], torch.cat(m)[back]) for t, m in zip(tokens, means, strict=True)]
    return Lessons(ids, torch.cat(embeddings)[back], seen)


def encoder_layers(network: GatedEncoder) -> list[EncoderLayer]:
    return [layer for layer in network.layers if isinstance(layer, EncoderLayer)]


def _keep(tokens: list[Tensor], means: list[Tensor], source: torch.Generator) -> Callable[..., None]:
    def hook(block: nn.Module, args: tuple[Any, ...]) -> None:
        x, _, lengths = args
        rows = x.float().split(list(lengths))
        picked = [row[_sample(len(row), source)] for row in rows]
        tokens.append(torch.stack(picked).bfloat16())
        means.append(torch.stack([row.mean(0) for row in rows]))

    return hook


def _sample(length: int, source: torch.Generator) -> Tensor:
    """TOKENS indices under `length`; none twice where there are enough."""
    if length < TOKENS:
        return torch.randint(0, length, (TOKENS,), generator=source)
    return torch.randperm(length, generator=source)[:TOKENS]
