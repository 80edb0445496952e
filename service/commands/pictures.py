"""Pictures from files to a model's pixels, and from pixels to half blocks in a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.color import Color
from rich.segment import Segment, Segments
from rich.style import Style

Pixels = NDArray[np.uint8]
MAX_SOURCE_PIXELS = 64_000_000
SHADES = " ░▒▓█"


class PictureError(Exception):
    """The file is no picture that can be read; the text is for people."""


def read_picture(path: Path, channels: int, height: int, width: int, invert: bool = False) -> Pixels:
    """uint8 [channels, height, width]: the picture, turned upright, scaled to fit and centred on black.

    invert: dark object on light ground -> light on dark. Raises PictureError.
    """
    try:
        with Image.open(path) as source:
            if source.width * source.height > MAX_SOURCE_PIXELS:
                raise PictureError(f"{path.name}: more than {MAX_SOURCE_PIXELS // 1_000_000} million pixels")
            upright = ImageOps.exif_transpose(source)
            picture = upright.convert("RGBA")
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file") from None
    except (UnidentifiedImageError, OSError):
        raise PictureError(f"{path.name}: not a picture that Pillow can read") from None
    ground = Image.new("RGBA", picture.size, "white" if invert else "black")
    flat = Image.alpha_composite(ground, picture).convert("L" if channels == 1 else "RGB")
    if invert:
        flat = ImageOps.invert(flat)
    fitted = ImageOps.pad(flat, (width, height), Image.Resampling.LANCZOS, color=0)
    values = np.asarray(fitted, dtype=np.uint8)
    return values[None] if channels == 1 else np.ascontiguousarray(values.transpose(2, 0, 1))


def light_ground(pixels: Pixels) -> bool:
    """Whether the border is mostly light: such a picture wants `invert` for models that learned light on dark."""
    grey = pixels.mean(axis=0)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return bool(np.median(border) > 127)


def shades(pixels: Pixels) -> str:
    """The picture for terminals and files without colour: one character for two rows, darker to lighter."""
    grey = pixels.mean(axis=0)
    if len(grey) % 2:
        grey = np.concatenate([grey, np.zeros((1, grey.shape[1]))])
    levels = (grey.reshape(-1, 2, grey.shape[1]).mean(axis=1) / 256 * len(SHADES)).astype(int)
    return "\n".join("".join(SHADES[level] for level in row) for row in levels)


def half_blocks(pixels: Pixels) -> Segments:
    """The picture with two pixels a character cell: foreground above, background below."""
    rgb = np.broadcast_to(pixels, (3, *pixels.shape[1:]))
    if rgb.shape[1] % 2:
        rgb = np.concatenate([rgb, np.zeros((3, 1, rgb.shape[2]), np.uint8)], axis=1)
    segments = []
    for y in range(0, rgb.shape[1], 2):
        for x in range(rgb.shape[2]):
            above, below = (Color.from_rgb(*(int(v) for v in rgb[:, row, x])) for row in (y, y + 1))
            segments.append(Segment("▀", Style(color=above, bgcolor=below)))
        segments.append(Segment.line())
    return Segments(segments)
