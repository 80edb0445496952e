"""What a network is shown in one step: augmented images, their labels and what a teacher says of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.recipes.augment import augment
from models.recipes.fashion_data import Splits

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


def banked_lessons(splits: Splits, max_shift: int, teacher: nn.Module, variants: int, seed: int = 0) -> Lessons:
    """`variants` fixed augmentations of every image, seen by the teacher once: for a teacher that costs more than its
    pupil. A step draws one variant a row; the first one is the image itself. Memory: variants x 784 bytes a row.
    """
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    pixels, logits = [], []
    for variant in range(variants):
        for part in torch.split(splits.pixels, TEACHER_ROWS):
            shown = augment(part, max_shift) if variant else part.float() / 255.0
            pixels.append((shown * 255.0).round().to(torch.uint8))
            logits.append(logits_of(teacher, shown))
    torch.set_rng_state(before)
    all_pixels, all_logits, count = torch.cat(pixels), torch.cat(logits), len(splits.labels)

    def draw(rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        chosen = rows + count * torch.randint(0, variants, (len(rows),))
        return all_pixels[chosen].float() / 255.0, splits.labels[rows], all_logits[chosen]

    return draw


@torch.no_grad()
def logits_of(network: nn.Module, pixels: Tensor) -> Tensor:
    """What `network` (in whatever mode it is) says; float32 [n, 10]."""
    with torch.autocast("cpu", torch.bfloat16):
        logits: Tensor = network(pixels)
    return logits.float()
