"""The model packages of one folder, as the repository of a running service loads them."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from models.interface import ServableModel
from models.package import MANIFEST, Package, parse_manifest, read_package
from models.registry import PLAIN_FAMILY, find_package, find_packages, load_package, shipped_repository
from service.config import InvalidSetting
from swan_runtime.errors import SwanError

LoadFolder = Callable[[Path], ServableModel]  # NAME/VERSION/ -> the model


class PackageSource:
    """folder: None = the packages shipped with the project. wanted: names to offer, none = all. load: builds a model.

    load_gated: builds a gated one, by default as any other. A package of the family `import` is anybody's code, and may
    be as small as an addition.
    """

    def __init__(
        self, folder: Path | None = None, wanted: Collection[str] = (), load_gated: LoadFolder = load_package
    ) -> None:
        self._folder = folder or shipped_repository()
        self._wanted = frozenset(wanted)
        self._load_gated = load_gated

    def versions(self) -> Mapping[str, Sequence[str]]:
        found: defaultdict[str, list[str]] = defaultdict(list)
        for path in self._paths():
            found[path.parent.name].append(path.name)
        return found

    def load(self, name: str, version: str) -> ServableModel:
        """Raises PackageError and its kin for a package that is malformed or not what its manifest says."""
        folder = find_package(self._folder, name, version)
        gated = parse_manifest(folder / MANIFEST).family != PLAIN_FAMILY
        return self._load_gated(folder) if gated else load_package(folder)

    def deadlines_s(self) -> tuple[float, ...]:
        """The packages' default deadlines: edges that latency histograms need."""
        return tuple(sorted({package.manifest.default_deadline_s for package in self.packages()}))

    def packages(self) -> Iterator[Package]:
        """Every readable package; the repository says what is wrong with the others when it loads them."""
        for path in self._paths():
            with contextlib.suppress(SwanError):
                yield read_package(path)

    def _paths(self) -> list[Path]:
        paths = list(find_packages(self._folder))
        unknown = self._wanted - {path.parent.name for path in paths}
        if unknown:
            known = ", ".join(sorted({path.parent.name for path in paths})) or "none"
            raise InvalidSetting(f"models: no package named {sorted(unknown)[0]!r}; there are: {known}")
        return [path for path in paths if not self._wanted or path.parent.name in self._wanted]
