"""The model repository: finds packages NAME/VERSION/ in folders and turns one into a servable model."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

from models.errors import PackageError, PackageNotFound
from models.interface import Repacks, ServableModel
from models.package import MANIFEST, Package, read_package

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")

Loader = Callable[[Package], ServableModel]

PLAIN_FAMILY = "import"  # anybody's code, ungated: it may be as small as an addition
FAMILIES = {
    PLAIN_FAMILY: "models.plain:load_plain",
    "gated_import": "models.gating:load_gated_import",
    "swan_mlp": "models.images:load_mlp",
    "gated_resnet": "models.images:load_resnet",
    "gated_encoder": "models.text:load_encoder",
}


def shipped_repository() -> Path:
    """The packages that come with the project."""
    return Path(str(files("models") / "packages"))


def find_packages(repository: Path) -> Iterator[Path]:
    """All NAME/VERSION/ folders with a manifest, by name and then by number. Unreadable packages are listed as well."""
    if not repository.is_dir():
        raise PackageError("repository", "a folder of model packages", str(repository))
    for model in sorted(path for path in repository.iterdir() if path.is_dir() and NAME.fullmatch(path.name)):
        versions = (path for path in model.iterdir() if path.name.isdigit() and (path / MANIFEST).exists())
        yield from sorted(versions, key=lambda path: int(path.name))


def find_package(repository: Path, name: str, version: str = "") -> Path:
    """The folder of a model's version; without one, of its highest. Raises PackageNotFound."""
    if not NAME.fullmatch(name) or name in (".", ".."):
        raise PackageNotFound("name", "1-128 of letters, digits, '.', '_', '-'", repr(name))
    found = [path for path in find_packages(repository) if path.parent.name == name]
    matching = [path for path in found if not version or path.name == version]
    if not matching:
        known = sorted({path.parent.name for path in find_packages(repository)})
        expected = f"a version of {[path.name for path in found]}" if found else f"one of {known}"
        raise PackageNotFound("model", expected, f"{name} {version}".strip())
    return matching[-1]


def load_package(path: Path, weights: str = "float32") -> ServableModel:
    """Read, check and build the package at NAME/VERSION/. Raises PackageError, CheckpointError or CalibrationError.

    weights: "float32", or "bfloat16" for models that can: few rows are bound by the stream of weights, which halves.
    """
    package = read_package(path)
    model = loader_of(package.manifest.family)(package)
    if weights != "float32" and isinstance(model, Repacks):
        model.repack(weights)
    return model


def loader_of(family: str) -> Loader:
    """The code that builds a family; imported when it is asked for, as whoever only lists packages needs no torch."""
    if family not in FAMILIES:
        raise PackageError("family", f"one of {sorted(FAMILIES)}", repr(family))
    module, _, name = FAMILIES[family].partition(":")
    loader: Loader = getattr(importlib.import_module(module), name)
    return loader
