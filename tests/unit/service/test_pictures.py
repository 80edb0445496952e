import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from service.commands.client import ClientError, Target
from service.commands.pictures import PictureError, half_blocks, light_ground, read_picture, shades


def _save(path, pixels, mode=None):
    Image.fromarray(np.asarray(pixels, np.uint8), mode).save(path)
    return path


def test_a_picture_of_the_right_size_is_taken_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28))
    path = _save(tmp_path / "a.png", pixels)
    assert np.array_equal(read_picture(path, 1, 28, 28)[0], pixels)
    assert np.array_equal(read_picture(path, 1, 28, 28, invert=True)[0], 255 - pixels)


def test_a_wide_picture_is_scaled_to_fit_and_centred_on_black(tmp_path):
    path = _save(tmp_path / "wide.png", np.full((40, 80), 200))
    grey = read_picture(path, 1, 28, 28)[0]
    assert grey[:6].max() == 0 and grey[-6:].max() == 0
    assert grey[9:19].min() > 190


def test_colour_keeps_its_channels_and_transparency_becomes_ground(tmp_path):
    rgba = np.zeros((10, 10, 4))
    rgba[:5] = (255, 10, 20, 255)
    path = _save(tmp_path / "c.png", rgba)
    planes = read_picture(path, 3, 10, 10)
    assert planes.shape == (3, 10, 10) and planes[0, 0, 0] == 255 and planes[1, 0, 0] == 10
    assert planes[:, 9, 9].tolist() == [0, 0, 0]
    assert read_picture(path, 1, 10, 10, invert=True)[0, 9, 9] == 0, "transparent ground is ground either way"


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "x.png").write_text("hello")
    for name in ("x.png", "none.png"):
        with pytest.raises(PictureError, match=name):
            read_picture(tmp_path / name, 1, 28, 28)


def test_a_light_ground_is_noticed():
    pixels = np.full((1, 28, 28), 250, np.uint8)
    pixels[0, 8:20, 8:20] = 10
    assert light_ground(pixels) and not light_ground(255 - pixels)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9))
def test_half_blocks_draw_two_rows_a_line(height, width):
    console = Console(width=20, force_terminal=True, color_system="truecolor")
    with console.capture() as capture:
        console.print(half_blocks(np.full((1, height, width), 7, np.uint8)))
    text = capture.get()
    assert text.count("▀") == width * -(-height // 2)
    assert "38;2;7;7;7" in text


@pytest.mark.parametrize(
    ("url", "address", "grpc", "secure"),
    [
        ("localhost:9000", "localhost:9000", False, False),
        ("http://h", "h:8000", False, False),
        ("https://h:443/base/", "h:443/base", False, True),
        ("grpc://h", "h:8001", True, False),
        ("grpcs://[::1]:5", "[::1]:5", True, True),
    ],
)
def test_a_url_says_protocol_and_address(url, address, grpc, secure):
    target = Target.parse(url)
    assert (target.address, target.grpc, target.secure) == (address, grpc, secure)


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:99999"])
def test_another_url_is_refused(url):
    with pytest.raises(ClientError, match="expected http"):
        Target.parse(url)


def test_shades_need_no_colour():
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :2, 1] = 255
    assert shades(pixels) == " █  \n    "
