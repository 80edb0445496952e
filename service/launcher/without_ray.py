"""`swan serve --no-ray`: one replica in this process, for development and for machines that are too small for Ray."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvloop

from service.app import start_replica
from service.config import Settings
from service.host.coordinator import Coordinator, follow
from service.host.standalone import Address, serve


def serve_here(settings: Settings, address: Address, on_ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, then answer what is in flight."""
    uvloop.run(_serve(settings, address, on_ready))


async def _serve(settings: Settings, address: Address, on_ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    source = Coordinator()
    replica = await start_replica(settings, source)
    following = asyncio.create_task(follow(source, replica.steer))
    async with serve(replica.app, address):
        await asyncio.to_thread(on_ready)  # it asks the service
        await stop.wait()
        await source.publish({"draining": True})
        await replica.close()
    following.cancel()
