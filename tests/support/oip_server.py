"""The protocol app on real sockets, on an event loop of its own thread, for blocking and async clients alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from service.api.application import ApiOptions, OipApp
from service.api.auth import AllowAll, Authorizer
from service.api.http import ExtraRoute
from service.host.standalone import Address, serve
from service.inference.dataplane import Dataplane, ServerIdentity
from service.inference.executor import DirectExecutor
from service.inference.limits import Limits
from service.inference.readiness import Readiness
from service.inference.repository import LiveRepository, ModelSource
from service.security.tls import TlsSettings
from service.telemetry.observer import RequestObserver
from tests.support.tiny_models import SlowModel, all_models

T = TypeVar("T")


class OipServer:
    """A running app with handles on its parts; `run` executes a coroutine on its loop."""

    def __init__(
        self,
        source: ModelSource | None = None,
        authorize: Authorizer | None = None,
        limits: Limits | None = None,
        options: ApiOptions | None = None,
        extra_routes: Sequence[ExtraRoute] = (),
        observers: Sequence[RequestObserver] = (),
        identity: ServerIdentity | None = None,
        num_threads: int = 2,
    ) -> None:
        self.slow = SlowModel()
        self.readiness = Readiness()
        self.repository = LiveRepository(source or all_models(self.slow))
        self.executor = DirectExecutor(self.repository.find, num_threads)
        self.dataplane = Dataplane(self.repository, self.executor, self.readiness, identity, observers)
        self.app = OipApp(self.dataplane, authorize or AllowAll(admin=True), limits, options, extra_routes)
        self.address = Address()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def http_url(self) -> str:
        return f"{self.address.host}:{self.address.http_port}"

    @property
    def grpc_url(self) -> str:
        return f"{self.address.host}:{self.address.grpc_port}"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60.0)

    def call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return self.run(run())

    @contextmanager
    def running(self, tls: TlsSettings | None = None) -> Iterator[OipServer]:
        started: threading.Event = threading.Event()
        thread = threading.Thread(target=asyncio.run, args=(self._main(started, tls),), daemon=True)
        thread.start()
        assert started.wait(60.0), "the server did not start"
        try:
            yield self
        finally:
            self.slow.release.release(1000)  # nobody may keep a thread waiting
            self.call(self._stop.set)
            thread.join(30.0)
            self.executor.close()

    async def _main(self, started: threading.Event, tls: TlsSettings | None) -> None:
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        await self.repository.load_all()
        async with serve(self.app, Address(), tls) as self.address:
            self.readiness.set(True)
            started.set()
            await self._stop.wait()
