"""minilm-embedder: BERT-style sentence encoder (all-MiniLM-L6-v2) whose feed-forward units are gated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swan_runtime.gate import LowRankGate
from swan_runtime.layers import GatedFFN, name_layers_
from swan_runtime.plan import Plan
from swan_runtime.served import ServedLinear


@dataclass(frozen=True, slots=True)
class GatedEncoderConfig:
    """all-MiniLM-L6-v2's sizes. rank: of the gates; granularity: a mask per "token" or per "request".

    pool: what a request's mask comes from: the "scores" of its tokens, or the "input", scores of its mean token.
    """

    vocabulary: int = 30522
    max_positions: int = 512
    width: int = 384
    num_layers: int = 6
    num_heads: int = 12
    num_units: int = 1536
    epsilon: float = 1e-12
    rank: int = 64
    granularity: str = "token"
    pool: str = "scores"


class SelfAttention(nn.Module):
    """x: [N, D], the tokens of all rows one after the other; lengths: tokens of each row."""

    def __init__(self, config: GatedEncoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = ServedLinear(config.width, 3 * config.width)
        self.out = ServedLinear(config.width, config.width)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        rows, longest, width = len(lengths), max(lengths), x.shape[-1]
        joined = self.qkv(x)  # [N, 3D]
        ragged = min(lengths) < longest
        if ragged:
            counts = torch.as_tensor(lengths, device=x.device)[:, None]
            place = torch.arange(longest, device=x.device)
            valid = place < counts  # [B, T]
            # Padding repeats a row's last token: no query asks for it and no key of it is seen. Gathering all rows in
            # one call matters in training, where a copy for each row would be most of a step.
            gathered = (counts.cumsum(0) - counts + place.minimum(counts - 1)).flatten()
            joined = joined.index_select(0, gathered)
        heads = joined.view(rows, longest, 3, self.num_heads, width // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, T, d]
        mask = valid[:, None, None, :] if ragged else None
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).reshape(-1, width)
        out: Tensor = self.out(mixed.index_select(0, valid.flatten().nonzero()[:, 0]) if ragged else mixed)
        return out


class EncoderLayer(nn.Module):
    """Post-norm: x = norm(x + attention(x)); x = norm(x + ffn(x))."""

    def __init__(self, config: GatedEncoderConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.width, config.epsilon)
        self.ffn = GatedFFN(config.width, config.num_units, config.rank, "gelu", config.granularity, config.pool)
        score = "logit" if config.pool == "input" else "deviation"
        self.ffn.gate = LowRankGate(config.width, config.num_units, config.rank, score, "gelu")
        self.ffn_norm = nn.LayerNorm(config.width, config.epsilon)

    def forward(self, x: Tensor, lengths: Sequence[int], plan: Plan | None) -> Tensor:
        x = self.attention_norm(x + self.attention(x, lengths))
        out: Tensor = self.ffn_norm(x + self.ffn(x, plan, lengths))
        return out


class GatedEncoder(nn.Module):
    """Token ids [N] of all rows one after the other, with lengths [B] -> unit-length embeddings [B, 384]."""

    def __init__(self, config: GatedEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.kind = nn.Parameter(torch.zeros(config.width))  # BERT's token type 0, the only one used
        self.norm = nn.LayerNorm(config.width, config.epsilon)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        name_layers_(self)

    def forward(self, lengths: Sequence[int], ids: Tensor, plan: Plan | None = None) -> Tensor:
        positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
        x = self.norm(self.tokens(ids) + self.positions(positions) + self.kind)  # [N, D]
        for layer in self.layers:
            x = layer(x, lengths, plan)
        means = torch.stack([row.mean(0) for row in x.split(list(lengths))])
        return F.normalize(means, dim=-1)

    def fixed_macs(self, lengths: Sequence[int], ids: Tensor) -> list[int]:
        """Attention's share of each row: four projections per token and two products per pair of tokens."""
        width, layers = self.config.width, self.config.num_layers
        return [layers * (4 * width * width * n + 2 * width * n * n) for n in lengths]


def adopt_minilm_(network: GatedEncoder, state: dict[str, Tensor]) -> GatedEncoder:
    """Copy the weights of a Hugging Face BertModel checkpoint; gates stay as they are."""

    def copy(target: nn.Module, source: str) -> None:
        target.load_state_dict({"weight": state[f"{source}.weight"], "bias": state[f"{source}.bias"]})

    network.tokens.weight.data.copy_(state["embeddings.word_embeddings.weight"])
    network.positions.weight.data.copy_(state["embeddings.position_embeddings.weight"])
    network.kind.data.copy_(state["embeddings.token_type_embeddings.weight"][0])
    copy(network.norm, "embeddings.LayerNorm")
    for i, layer in enumerate(network.layers):
        assert isinstance(layer, EncoderLayer)
        path = f"encoder.layer.{i}"
        parts = [f"{path}.attention.self.{name}" for name in ("query", "key", "value")]
        for field, target in (("weight", layer.attention.qkv.weight), ("bias", layer.attention.qkv.bias)):
            target.data.copy_(torch.cat([state[f"{part}.{field}"] for part in parts]))
        copy(layer.attention.out, f"{path}.attention.output.dense")
        copy(layer.attention_norm, f"{path}.attention.output.LayerNorm")
        copy(layer.ffn.up, f"{path}.intermediate.dense")
        copy(layer.ffn.down, f"{path}.output.dense")
        copy(layer.ffn_norm, f"{path}.output.LayerNorm")
    return network
