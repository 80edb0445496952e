"""The models of one replica: which versions exist, which are loaded, and loading and unloading them at run time."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from models.interface import ServableModel
from service.errors import InvalidRequest, ModelFailed, NotFound, Unavailable

logger = logging.getLogger(__name__)

MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class ModelState(StrEnum):
    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One row of the repository index. reason: why the model is not ready, safe to show to clients."""

    name: str
    version: str
    state: ModelState
    reason: str = ""


class ModelSource(Protocol):
    """Where models come from."""

    def versions(self) -> Mapping[str, Sequence[str]]:
        """Every model that could be loaded -> its versions, integers as strings."""

    def load(self, name: str, version: str) -> ServableModel:
        """Blocking. Raises on anything that cannot be served."""


class ModelRepository(Protocol):
    """What the data plane needs of a repository."""

    def find(self, name: str, version: str = "") -> ServableModel:
        """The loaded model, "" = its latest version. Raises NotFound, InvalidRequest or Unavailable."""

    def versions(self, name: str) -> tuple[str, ...]:
        """Loaded versions of a model, ascending."""

    def index(self) -> tuple[IndexEntry, ...]: ...

    async def load(self, name: str) -> None:
        """Returns when the model is ready. Raises NotFound or ModelFailed."""

    async def unload(self, name: str) -> None:
        """Returns at once: no new request finds the model, those in work finish. Raises NotFound."""


ModelHook = Callable[[ServableModel], Awaitable[None]]
Prepare = Callable[[str, str], Awaitable[ServableModel]]
Say = Callable[[str], None]


def _nobody_listens(progress: str) -> None:
    """Nobody watches the start."""


async def _no_hook(model: ServableModel) -> None:
    """Nobody else has to know about this model."""


class LiveRepository:
    """Loads from a source in a thread; `on_load` runs before a model becomes visible, `on_unload` once it is hidden.

    The hooks are the scheduler's: register and profile a model, drain and forget it. On a reload the new model is
    announced before the old one of the same name and version is withdrawn: hooks tell them apart by identity.
    """

    def __init__(
        self,
        source: ModelSource,
        on_load: ModelHook = _no_hook,
        on_unload: ModelHook = _no_hook,
        say: Say = _nobody_listens,
    ) -> None:
        self._say = say
        self._source = source
        self._on_load = on_load
        self._on_unload = on_unload
        self._models: dict[str, dict[str, ServableModel]] = {}
        self._entries: dict[tuple[str, str], IndexEntry] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def find(self, name: str, version: str = "") -> ServableModel:
        loaded = self._models.get(name)
        if loaded:
            if not version:
                return next(reversed(loaded.values()))
            if version in loaded:
                return loaded[version]
        raise self._missing(name, version)

    def versions(self, name: str) -> tuple[str, ...]:
        return tuple(self._models.get(name, ()))

    def index(self) -> tuple[IndexEntry, ...]:
        return tuple(self._entries[key] for key in sorted(self._entries, key=lambda key: (key[0], int(key[1]))))

    async def load_all(self) -> None:
        """Load every model of the source; one that fails is logged and listed as unavailable.

        They are prepared side by side, but announced one by one and only then: `on_load` may measure how fast they are.
        """
        available = self._source.versions()
        cores = asyncio.Semaphore(os.cpu_count() or 1)

        async def prepare(name: str, version: str) -> ServableModel:
            async with cores:
                return await self._prepare(name, version)

        tasks = {
            (name, version): asyncio.create_task(prepare(name, version))
            for name, versions in available.items()
            for version in versions
        }
        if tasks:
            await asyncio.wait(tasks.values())
        for name, versions in available.items():
            try:
                await self._load(name, versions, lambda *key: tasks[key])
            except ModelFailed as error:
                logger.error("%s", error.message)

    async def load(self, name: str) -> None:
        available = await asyncio.to_thread(self._source.versions)
        if not MODEL_NAME.fullmatch(name) or not available.get(name):
            raise NotFound(f"failed to load '{name[:128]}': no such model in the repository")
        await self._load(name, available[name], self._prepare)

    async def _load(self, name: str, versions: Sequence[str], prepare: Prepare) -> None:
        async with self._locks.setdefault(name, asyncio.Lock()):
            fresh: dict[str, ServableModel] = {}
            for version in sorted(versions, key=int):
                fresh[version] = await self._load_version(name, version, prepare)
            replaced = self._models.get(name, {})
            self._models[name] = fresh
            for model in replaced.values():
                await self._on_unload(model)

    async def unload(self, name: str) -> None:
        loaded = self._models.pop(name, None)
        if loaded is None:
            raise NotFound(f"failed to unload '{name[:128]}': no such model is loaded")
        for version, model in loaded.items():
            self._note(name, version, ModelState.UNLOADING)
            leaving = asyncio.get_running_loop().create_task(self._leave(name, version, model))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    async def _prepare(self, name: str, version: str) -> ServableModel:
        """Read and warm up; nobody can see the model yet."""
        self._note(name, version, ModelState.LOADING)
        self._say(f"loading {name}")
        model = await asyncio.to_thread(self._source.load, name, version)
        self._say(f"warming up {name}")
        await asyncio.to_thread(model.warm_up)
        return model

    async def _load_version(self, name: str, version: str, prepare: Prepare) -> ServableModel:
        try:
            model = await prepare(name, version)
            await self._on_load(model)
        except Exception:
            logger.exception("loading model %s version %s failed", name, version)
            self._note(name, version, ModelState.UNAVAILABLE, "failed to load; the server log says why")
            raise ModelFailed(f"failed to load '{name}' version {version}; the server log says why") from None
        self._note(name, version, ModelState.READY)
        return model

    async def _leave(self, name: str, version: str, model: ServableModel) -> None:
        await self._on_unload(model)
        if version not in self._models.get(name, {}):
            self._note(name, version, ModelState.UNAVAILABLE, "unloaded")

    def _note(self, name: str, version: str, state: ModelState, reason: str = "") -> None:
        self._entries[name, version] = IndexEntry(name, version, state, reason)

    def _missing(self, name: str, version: str) -> Exception:
        if version and not _VERSION.fullmatch(version):
            return InvalidRequest(f"model version: expected a positive integer, got {version[:32]!r}")
        states = {
            entry.state for entry in self._entries.values() if entry.name == name and version in ("", entry.version)
        }
        if ModelState.LOADING in states or ModelState.UNLOADING in states:
            return Unavailable(f"model '{name}' is loading or unloading", reason="unloading")
        if states:
            return NotFound(f"Request for unknown model: '{name}' has no available versions")
        of = f" version {version}" if version and name in self._models else ""
        return NotFound(f"Request for unknown model: '{name[:128]}'{of} is not found")
