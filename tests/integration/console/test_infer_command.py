import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from models.data import fashion
from service.api.auth import Scope
from service.commands.infer import app
from service.security.keys import ApiKeyAuthorizer, KeyRing, create
from tests.support.console_server import console_server

KEY, ENTRY = create("cli", [Scope.INFER])
RING = KeyRing([ENTRY])


@pytest.fixture(scope="module")
def server():
    with console_server(ApiKeyAuthorizer(lambda: RING)).running() as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def url(request, server):
    return f"{request.param}://{getattr(server, f'{request.param}_url')}"


@pytest.fixture(scope="module")
def trouser(tmp_path_factory):
    images = fashion.test_images()
    row = int(np.flatnonzero(images.labels == 1)[0])
    path = tmp_path_factory.mktemp("pictures") / "trouser.png"
    Image.fromarray(images.pixels[row].reshape(28, 28)).save(path)
    return path


def _run(*arguments, key=KEY):
    return CliRunner().invoke(app, list(arguments), env={"SWAN_API_KEY": key, "COLUMNS": "120"})


def test_a_picture_gives_classes_bars_and_its_cost(url, trouser):
    result = _run("tiny-fashion", "--file", str(trouser), "--url", url, "--budget", "0.5")
    assert result.exit_code == 0, result.output
    assert "▓" in result.output and "Trouser" in result.output and "█" in result.output
    assert "0.50 (request)" in result.output and "units that ran" in result.output


def test_json_is_for_programs(url, trouser):
    result = _run("tiny-fashion", "--file", str(trouser), "--url", url, "--json", "--top", "3")
    answer = json.loads(result.output)
    assert answer["classes"][0]["label"] == "Trouser" and len(answer["classes"]) == 3
    assert answer["parameters"]["quality_budget"] == 1.0


def test_a_smaller_budget_spends_fewer_macs(url, trouser):
    macs = [
        json.loads(_run("tiny-fashion", "--file", str(trouser), "--url", url, "--json", "--budget", b).output)[
            "parameters"
        ]
        for b in ("0.1", "0.5")
    ]
    assert macs[0]["compute_macs"] < macs[1]["compute_macs"] < macs[1]["compute_macs_dense"]


def test_a_text_and_an_array(url, tmp_path):
    result = _run("tiny-letters", "--text", "Abba", "--url", url, "--json", "--timeout", "5")
    assert json.loads(result.output)["outputs"]["embedding"][:2] == [2.0, 2.0]
    assert "embedding" in _run("tiny-letters", "--text", "Abba", "--url", url).output
    (tmp_path / "abba.txt").write_text("Abba")
    same = _run("tiny-letters", "--file", str(tmp_path / "abba.txt"), "--url", url, "--json")
    assert json.loads(same.output)["outputs"] == json.loads(result.output)["outputs"]
    np.save(tmp_path / "row.npy", np.zeros(784, np.float32))
    assert json.loads(_run("tiny-fashion", "--file", str(tmp_path / "row.npy"), "--url", url, "--json").output)[
        "classes"
    ]


def test_what_goes_wrong_is_said_in_one_line(url, trouser, tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    for arguments, text in (
        (["none", "--text", "a"], "none"),
        (["tiny-fashion"], "a picture: --file IMAGE"),
        (["tiny-fashion", "--text", "a"], "a picture: --file IMAGE"),
        (["tiny-letters"], "a text: --text TEXT"),
        (["tiny-fashion", "--file", str(tmp_path / "x.png")], "x.png"),
        (["tiny-fashion", "--file", str(tmp_path / "none.npy")], "none.npy"),
        (["tiny-fashion", "--file", str(trouser), "--budget", "7"], "quality"),
    ):
        result = _run(*arguments, "--url", url)
        assert result.exit_code == 1 and text in result.stderr, arguments
        assert "Traceback" not in result.output
    refused = _run("tiny-letters", "--text", "a", "--url", url, key="")
    assert refused.exit_code == 1 and "API key" in refused.stderr


def test_a_light_ground_gets_a_hint(server, tmp_path, trouser):
    light = tmp_path / "light.png"
    Image.fromarray(255 - np.asarray(Image.open(trouser))).save(light)
    url = f"http://{server.http_url}"
    plain = _run("tiny-fashion", "--file", str(light), "--url", url)
    assert "--invert" in plain.output
    inverted = _run("tiny-fashion", "--file", str(light), "--url", url, "--invert")
    assert "--invert" not in inverted.output and "Trouser" in inverted.output


def test_no_service_is_said_plainly():
    for url in ("http://127.0.0.1:9", "grpc://127.0.0.1:9", "ftp://x"):
        result = _run("m", "--text", "a", "--url", url)
        assert result.exit_code == 1 and result.stderr.startswith("swan infer: ")
