"""Debian's index: texts to train on share no source, and no text, with the splits that are held out."""

from pathlib import Path

import pytest

from models.data import debian_index
from models.data.debian_index import index_of, long_text, training_pairs
from models.data.descriptions import sample_descriptions
from models.data.fetch import FetchError

HELD_OUT = sample_descriptions("test")[0]


def stanza(**fields: str) -> str:
    return "\n".join(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())


def package(name: str, md5: str, short: str = "frobnicates the widgets", **more: str) -> str:
    return stanza(Package=name, Section="misc", Description=short, Description_md5=md5, **more)


def translation(md5: str, long: str) -> str:
    return stanza(Package="any", Description_md5=md5, Description_en=f"ignored\n {long}\n .\n and a second paragraph")


def test_training_pairs_leave_out_what_is_held_out_and_what_says_nothing() -> None:
    longs = {name: f"{name} reads widgets from a file and writes them frobnicated to another one" for name in "abcdef"}
    packages = "\n\n".join(
        [
            package("kept", "a"),
            package("same-text", "a"),
            package("held-out-source", "b", Source=f"{HELD_OUT.source} (1.2-3)"),
            package("held-out-text", "c", short=HELD_OUT.short),
            package("too-short", "d", short="tiny"),
            package("no-long-text", "none"),
            package("also-kept", "e", Source="other"),
        ]
    )
    translations = "\n\n".join(translation(md5, long) for md5, long in longs.items())
    pairs = training_pairs(packages, translations)
    assert [long.split()[0] for _, long in pairs] == ["a", "e"]
    assert all(long.endswith("another one and a second paragraph") for _, long in pairs)


def test_long_texts_are_cut_at_a_word() -> None:
    text = long_text("synopsis\n" + " word" * 200)
    assert 480 < len(text) <= debian_index.MAX_LONG and text.endswith("word")


def test_a_folder_without_lists_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="expected files"):
        index_of(tmp_path)
