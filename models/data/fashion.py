"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017; MIT): 55,000 train / 5,000 calibration / 10,000 test, disjoint.

The test split ships with the project; the other two come from Debian's dataset-fashion-mnist or a folder.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.deb import read_deb
from models.data.fetch import FetchError, PinnedFile, fetch_deb, sha256_of

LABELS = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
NUM_CALIBRATION = 5_000
SPLIT_SEED = 20260309
MEAN, STD = 0.2860, 0.3530  # of the training pixels, scaled to 0..1

DEB = PinnedFile(
    "dataset-fashion-mnist.deb", "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0", 30_900_652
)
DEB_VERSION = "0.0~git20200523.55506a9-1"
# NOTE: pins are of the uncompressed files: Debian strips the gzip headers, so the .gz sums differ from upstream's.
IDX_SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True, slots=True)
class Images:
    """pixels: uint8 [n, 784], row-major 28x28; labels: int64 [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64] | slice) -> Images:
        return Images(self.pixels[rows], self.labels[rows])

    def scaled(self) -> NDArray[np.float32]:
        """Pixels as the models take them, converted anew: float32 [n, 784] in 0..1."""
        return self.pixels.astype(np.float32) / np.float32(255.0)


def test_images() -> Images:
    """The 10,000 test images that ship with the project."""
    folder = files("models.data") / "assets"
    raw = {name: (folder / f"fashion-{name}.gz").read_bytes() for name in IDX_SHA256 if name.startswith("t10k")}
    return _images(*(_checked(name, gzip.decompress(content)) for name, content in raw.items()))


def train_and_calibration(
    folder: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> tuple[Images, Images]:
    """55,000 images to train on and 5,000 to calibrate on, drawn once by a fixed seed from the 60,000 of upstream.

    folder: holds train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz; None = Debian's package, via apt.
    """
    names = [name for name in IDX_SHA256 if name.startswith("train")]
    wanted = frozenset(f"{name}.gz" for name in names)
    if folder is None:
        raw = read_deb(fetch_deb("dataset-fashion-mnist", DEB_VERSION, DEB, say), wanted)
    else:
        missing = sorted(name for name in wanted if not (folder / name).exists())
        if missing:
            raise FetchError(f"{folder}: expected {sorted(wanted)}, missing {missing}")
        raw = {name: (folder / name).read_bytes() for name in wanted}
    images = _images(*(_checked(name, gzip.decompress(raw[f"{name}.gz"])) for name in names))
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    return images.take(order[NUM_CALIBRATION:]), images.take(order[:NUM_CALIBRATION])


def _checked(name: str, content: bytes) -> NDArray[np.uint8]:
    got = sha256_of(content)
    if got != IDX_SHA256[name]:
        raise FetchError(f"{name}: expected sha256 {IDX_SHA256[name]}, got {got}")
    num_axes = content[3]
    shape = struct.unpack(f">{num_axes}I", content[4 : 4 + 4 * num_axes])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)


def _images(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Images:
    return Images(pixels.reshape(len(pixels), 784), labels.astype(np.int64))
