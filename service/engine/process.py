"""The model process: `python -m service.engine.process '{"channels": [FD, ...], ...}'`. One thread a channel.

It ends when the replica's end of a channel is closed, however the replica ended.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from models.interface import ServableModel, ShowsUnits
from models.registry import load_package
from service.engine import wire
from service.telemetry.log import LogFormat, configure, get
from swan_runtime.errors import FieldError, InvalidInputError


class Host:
    """The loaded models by key, and what a replica may ask of them. Called from several threads."""

    def __init__(self, weights: str = "float32") -> None:
        self._weights = weights
        self._models: dict[int, ServableModel] = {}
        self.actions: dict[str, Callable[..., wire.Plain]] = {
            "load": self.load,
            "drop": self.drop,
            "infer": self.infer,
            "warm_up": self.warm_up,
            "example": self.example,
            "fired_units": self.fired_units,
        }

    def load(self, key: int, folder: str) -> wire.Plain:
        """Returns spec, table and fingerprint, pickled: they are read once."""
        model = load_package(Path(folder), self._weights)
        self._models[key] = model
        gc.collect()
        gc.freeze()  # what is loaded stays: no collection needs to walk through it again
        return pickle.dumps((model.spec, model.table, model.fingerprint))

    def drop(self, key: int) -> wire.Plain:
        self._models.pop(key, None)

    def infer(self, key: int, inputs: wire.Plain, budgets: bytes) -> wire.Plain:
        """Output, seconds it took, and when it was done on the clock that all processes of the machine share."""
        began = time.perf_counter()
        output = self._models[key].infer(wire.arrays_of(inputs), np.frombuffer(budgets))
        seconds = time.perf_counter() - began
        return wire.plain_output(output), seconds, time.monotonic()

    def warm_up(self, key: int) -> wire.Plain:
        self._models[key].warm_up()

    def example(self, key: int, rows: int) -> wire.Plain:
        return wire.plain_arrays(self._models[key].example(rows))

    def fired_units(self, key: int, inputs: wire.Plain, budget: float) -> wire.Plain:
        model = self._models[key]
        assert isinstance(model, ShowsUnits)
        return wire.plain_arrays(model.fired_units(wire.arrays_of(inputs), budget))


def answer(host: Host, message: wire.Plain) -> wire.Plain:
    """(status, result or what went wrong); an Exception never ends the process."""
    action, *arguments = message
    try:
        return wire.OK, host.actions[action](*arguments)
    except InvalidInputError as error:
        return wire.INVALID, (error.field, error.expected, error.got)
    except Exception as error:
        known = isinstance(error, FieldError)
        get("engine").error("a call failed", action=action, exc_info=None if known else error)
        return wire.FAILED, f"{type(error).__name__}: {error}"


def serve(host: Host, channel: Connection) -> None:
    """Answer until the other end is closed."""
    while True:
        try:
            message = wire.loads(channel.recv_bytes())
            channel.send_bytes(wire.dumps(answer(host, message)))
        except (EOFError, OSError):
            os._exit(0)  # the replica is gone: what still runs in other threads is for nobody


def main(arguments: dict[str, Any]) -> None:
    import torch

    configure(arguments["log_level"], LogFormat(arguments["log_format"]))
    torch.set_num_threads(1)  # the channels' threads are the parallelism
    host = Host(arguments["weights"])
    threads = [threading.Thread(target=serve, args=(host, Connection(fd))) for fd in arguments["channels"]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
