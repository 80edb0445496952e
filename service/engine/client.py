"""The replica's half: starts the model process, keeps it alive, and shows its models as if they were here."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue

import numpy as np
from numpy.typing import NDArray

from models.interface import Arrays, ModelOutput, ModelSpec
from service.engine import wire
from service.errors import ModelFailed
from service.telemetry.log import get
from swan_runtime.budget import CalibrationTable
from swan_runtime.errors import InvalidInputError

SPARE_CHANNELS = 2  # beside one for each worker thread: loading, profiling, the console
MAX_DEATHS, WITHIN_S = 5, 120.0
CLOSE_S = 2.0


class EngineDied(Exception):
    """The model process ended while it was asked."""


class EngineError(Exception):
    """A call failed in the model process. The text is for the log: it may say more than clients should know."""


class EngineProcess:
    """One life of the model process. `call` blocks; as many threads as there are channels may call at once.

    lines: sockets to it for an event loop, one for each batch that may run at once.
    """

    def __init__(self, threads: int, log_level: str, log_format: str, weights: str) -> None:
        pairs = [socket.socketpair() for _ in range(2 * threads + SPARE_CHANNELS)]
        theirs = [theirs.fileno() for _, theirs in pairs]
        options = {"channels": theirs, "log_level": log_level, "log_format": log_format, "weights": weights}
        command = [sys.executable, "-m", "service.engine.process", json.dumps(options)]
        # a session of its own: Ctrl-C is for the replica, which drains, and that needs the models
        self._process = subprocess.Popen(command, pass_fds=theirs, stdin=subprocess.DEVNULL, start_new_session=True)
        self._idle: LifoQueue[Connection] = LifoQueue()
        for _, other in pairs:
            other.close()
        self.lines = [ours for ours, _ in pairs[:threads]]
        for ours, _ in pairs[threads:]:
            self._idle.put(Connection(ours.detach()))
        self._channels = tuple(self._idle.queue)

    @property
    def pid(self) -> int:
        return self._process.pid

    def call(self, *message: wire.Plain) -> wire.Plain:
        """Raises EngineDied, InvalidInputError for a value the model refuses, EngineError for all else."""
        channel = self._idle.get()
        try:
            channel.send_bytes(wire.dumps(message))
            status, result = wire.loads(channel.recv_bytes())
        except (EOFError, OSError) as error:
            raise EngineDied(str(error)) from None
        finally:
            self._idle.put(channel)
        if status == wire.INVALID:
            raise InvalidInputError(*result)
        if status == wire.FAILED:
            raise EngineError(result)
        return result

    def close(self) -> None:
        """End it; what it computes is lost."""
        for line in self.lines:
            line.close()
        for channel in self._channels:
            channel.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Engine:
    """A model process that is started again, with its models, when it dies.

    threads: how many batches run at once. weights: precision, as in `load_package`. What was asked of the process that
    died fails: one of those requests may be why. healthy: False once it has died MAX_DEATHS times WITHIN_S; the replica
    should be replaced then.
    """

    def __init__(
        self, threads: int, log_level: str = "info", log_format: str = "auto", weights: str = "float32"
    ) -> None:
        self._options = threads, log_level, log_format, weights
        self._lock = threading.Lock()
        self._process: EngineProcess | None = None
        self._loaded: dict[int, Path] = {}
        self._keys = itertools.count()
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)

    @property
    def healthy(self) -> bool:
        return len(self._deaths) < MAX_DEATHS or time.monotonic() - self._deaths[0] > WITHIN_S

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def take_lines(self) -> tuple[int, list[socket.socket]]:
        """The running process' id and its lines, duplicated: whoever takes them closes them."""
        process = self._running()
        return process.pid, [line.dup() for line in process.lines]

    def load(self, folder: Path) -> EngineModel:
        """Load the package at NAME/VERSION/. Raises EngineError, which says what is wrong with it."""
        key = next(self._keys)
        facts = self._ask("load", key, str(folder))
        self._loaded[key] = folder
        model = EngineModel(self, key, *pickle.loads(facts))  # noqa: S301 - pickled by our own other half
        weakref.finalize(model, self._forget, key).atexit = False
        return model

    def call(self, key: int, action: str, *arguments: wire.Plain) -> wire.Plain:
        """Raises InvalidInputError, EngineError, or ModelFailed if the process died of it."""
        return self._ask(action, key, *arguments)

    def close(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.close()
                self._process = None

    def _ask(self, *message: wire.Plain) -> wire.Plain:
        process = self._running()
        try:
            return process.call(*message)
        except EngineDied:
            self._bury(process)
            raise ModelFailed("the process that runs the models died; it is started again") from None

    def _running(self) -> EngineProcess:
        """Whoever comes while it is started waits: nothing can be computed before."""
        with self._lock:
            if self._process is None:
                self._process = self._start()
            return self._process

    def _start(self) -> EngineProcess:
        process = EngineProcess(*self._options)
        try:
            for key, folder in self._loaded.items():
                process.call("load", key, str(folder))
                process.call("warm_up", key)
        except (EngineDied, EngineError) as error:
            self._deaths.append(time.monotonic())
            process.close()
            raise ModelFailed("the process that runs the models cannot be started again") from error
        return process

    def _forget(self, key: int) -> None:
        """The model is used no more: give its memory back."""
        del self._loaded[key]
        with contextlib.suppress(EngineDied, EngineError):
            if self._process is not None:
                self._process.call("drop", key)

    def _bury(self, process: EngineProcess) -> None:
        with self._lock:
            if self._process is process:
                get("engine").error("the model process died", pid=process.pid)
                self._deaths.append(time.monotonic())
                self._process = None
                process.close()


class EngineModel:
    """A ServableModel that lives in the engine. Its fingerprint is not the model's own: times include the pipe."""

    def __init__(
        self, engine: Engine, key: int, spec: ModelSpec, table: CalibrationTable | None, fingerprint: str
    ) -> None:
        self._engine, self._key = engine, key
        self.spec, self.table, self.fingerprint = spec, table, f"{fingerprint} in a process"

    def warm_up(self) -> None:
        self._engine.call(self._key, "warm_up")

    def example(self, rows: int) -> Arrays:
        return wire.arrays_of(self._engine.call(self._key, "example", rows))

    def infer(self, inputs: Arrays, budgets: NDArray[np.float64]) -> ModelOutput:
        """As the model's own; ModelFailed where the model raised or took the process down."""
        action, key, *arguments = self.question(inputs, budgets)
        output, _, _ = self._engine.call(key, action, *arguments)
        return wire.output_of(output)

    def question(self, inputs: Arrays, budgets: NDArray[np.float64]) -> tuple[wire.Plain, ...]:
        """What `infer` asks the process, for who has a line to it."""
        return "infer", self._key, wire.plain_arrays(inputs), budgets.tobytes()

    def fired_units(self, inputs: Arrays, budget: float) -> Mapping[str, NDArray[np.float32]]:
        return wire.arrays_of(self._engine.call(self._key, "fired_units", wire.plain_arrays(inputs), budget))
