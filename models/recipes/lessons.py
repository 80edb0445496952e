"""What a network is shown in one step: augmented images, their labels and what a teacher says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.recipes.augment import augment
from models.recipes.fashion_data import Splits
from swan_runtime.checkpoint import fingerprint

# indices of training rows -> (pixels [n, 784] in 0..1, labels [n], the teacher's logits [n, 10] or None)
Lessons = Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]]

TEACHER_ROWS = 1000


def fresh_lessons(splits: Splits, max_shift: int, teacher: nn.Module | None = None) -> Lessons:
    """A new augmentation at every call; the teacher, if there is one, looks at each of them."""

    def draw(rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        pixels = augment(splits.pixels[rows], max_shift)
        taught = None if teacher is None else logits_of(teacher, pixels)
        return pixels, splits.labels[rows], taught

    return draw


def banked_lessons(
    splits: Splits, max_shift: int, teacher: nn.Module, variants: int, seed: int = 0, kept: Path | None = None
) -> Lessons:
    """`variants` fixed augmentations of every image, seen by the teacher once: for a teacher that costs more than its
    pupil. A step draws one variant a row; the first one is the image itself. Memory: variants x 784 bytes a row.
    kept: a file for what the teacher said, which takes many minutes; read if it is of this teacher and these images.
    """
    subject = hashlib.sha256(f"{fingerprint(teacher)} {max_shift} {variants} {seed}".encode())
    subject.update(splits.pixels.numpy().tobytes())
    said = _read(kept, subject.hexdigest())
    count = len(splits.labels)
    parts = [part for _ in range(variants) for part in torch.split(splits.pixels, TEACHER_ROWS)]
    all_pixels, logits = [], []
    with torch.random.fork_rng(devices=()):  # the training's random numbers stay where they are
        torch.manual_seed(seed)
        for i, part in enumerate(track(parts, "the teacher looks", disable=len(parts) < 10)):
            shown = augment(part, max_shift) if i * TEACHER_ROWS >= count else part.float() / 255.0
            all_pixels.append((shown * 255.0).round().to(torch.uint8))
            if said is None:
                logits.append(logits_of(teacher, shown))
    bank, taught = torch.cat(all_pixels), torch.cat(logits) if said is None else said
    if said is None and kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({"logits": taught}, kept, {"of": subject.hexdigest()})

    def draw(rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        chosen = rows + count * torch.randint(0, variants, (len(rows),))
        return bank[chosen].float() / 255.0, splits.labels[rows], taught[chosen]

    return draw


def _read(path: Path | None, subject: str) -> Tensor | None:
    if path is None or not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("logits") if (file.metadata() or {}).get("of") == subject else None


@torch.no_grad()
def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """What `network` (in whatever mode it is) says; float32 [n, 10]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = network(pixels)
    return logits.float()
