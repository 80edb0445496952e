"""Random flips and shifts of 28x28 images, drawn from torch's global generator."""

import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 28


def augment(pixels: Tensor, max_shift: int, flip: bool = True) -> Tensor:
    """uint8 [n, 784] -> float32 [n, 784] in 0..1: each image shifted by up to `max_shift` pixels, half mirrored."""
    images = pixels.view(-1, SIDE, SIDE).float() / 255.0
    n = len(images)
    if flip:
        mirrored = torch.rand(n) < 0.5
        images = torch.where(mirrored[:, None, None], images.flip(-1), images)
    if max_shift:
        padded = F.pad(images, (max_shift,) * 4)
        start = torch.randint(0, 2 * max_shift + 1, (2, n, 1))
        rows = (start[0] + torch.arange(SIDE))[:, :, None]
        columns = (start[1] + torch.arange(SIDE))[:, None, :]
        images = padded[torch.arange(n)[:, None, None], rows, columns]
    return images.reshape(n, SIDE * SIDE)
