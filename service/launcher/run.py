"""One life of the service: check, start, tell what is served, wait for a signal, drain, end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil
from rich.console import Console

from service.config import PROGRESS_VARIABLE, environment_of
from service.inference.progress import ProgressReader
from service.launcher import preflight
from service.launcher.cluster import Cluster, ProxyFailed, StopRequested
from service.launcher.greeting import greet
from service.launcher.plan import Plan
from service.launcher.preflight import CannotStart, Machine
from service.launcher.ray_environment import haproxy_environment, ray_environment
from service.launcher.supervise import CRASHED, supervise

CANNOT_START = 2
PROXY_FAILED = 3
AGAIN = {
    True: "The ingress did not come up; starting once more.",
    False: "Starting again with Ray Serve's default proxy, which is about 20 times slower.",
}
PRINTED = "printed.log"
PROGRESS = "progress"
PLAIN_WIDTH = 140  # of the table, where the output is no terminal
SYSTEM_CPUS = 1  # logical CPUs beyond the replicas', so that a rolling update finds room


class Signals:
    """SIGINT and SIGTERM as a flag; a second one ends the wait for requests in flight. SIGHUP asks for a roll."""

    def __init__(self) -> None:
        self._count = 0
        self._roll = False
        self._event = threading.Event()

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._receive)
        signal.signal(signal.SIGHUP, self._receive_roll)

    def _receive_roll(self, number: int, frame: FrameType | None) -> None:
        self._roll = True
        self._event.set()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        self._event.set()
        if self._count > 1:
            raise StopRequested

    def requested(self) -> bool:
        return self._count > 0

    def wait(self) -> bool:
        """Until a signal: True when the replicas are to be rolled, False when the service is to end."""
        self._event.wait()
        self._event.clear()
        roll, self._roll = self._roll, False
        return roll and not self.requested()


def serve(plan: Plan, console: Console) -> int:
    """Run until a signal. Returns the exit code; raises CannotStart with one clear line."""
    check(plan, console)
    if plan.proxy == "none":
        return _without_ray(plan, console)
    code = PROXY_FAILED
    for number, ha_proxy in enumerate(proxies_to_try(plan.proxy, wants_ha_proxy(plan, console))):
        if number:
            _warn(console, AGAIN[ha_proxy])
        code = _supervised(plan, console, ha_proxy)
        if code != PROXY_FAILED:
            break
    return code


def proxies_to_try(wanted: str, ha_proxy: bool) -> tuple[bool, ...]:
    """One after the other while the ingress does not come up; True is HAProxy.

    It is tried twice, with other ports if need be: what held one of them may have been there for a moment only.
    """
    if not ha_proxy:
        return (False,)
    return (True, True, False) if wanted == "auto" else (True, True)


def _without_ray(plan: Plan, console: Console) -> int:
    from service.host.standalone import Address
    from service.launcher.without_ray import serve_here

    console.print("Starting one replica in this process, without Ray.")
    file = plan.file
    serve_here(plan.settings, Address(file.host, file.http_port, file.grpc_port), lambda: greet(plan, console))
    console.print("Stopped.")
    return 0


def _supervised(plan: Plan, console: Console, ha_proxy: bool) -> int:
    directory = preflight.private_directory()
    try:
        code = supervise(lambda: _guarded(plan, directory, ha_proxy))
        if code == CRASHED:
            kept = _keep_logs(directory)
            console.print(f"[red]stopped unexpectedly:[/] Ray or one of its processes was killed; logs: {kept}")
        return code
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _guarded(plan: Plan, directory: Path, ha_proxy: bool) -> int:
    """Exit code instead of an exception: the supervisor is another process."""
    console = _quiet(directory)
    try:
        return _live(plan, console, directory, ha_proxy)
    except CannotStart as problem:
        console.print(f"[red]cannot start:[/] {problem}")
        kept = _keep_logs(directory)
        console.print(f"[dim]logs: {kept}[/]")
        return PROXY_FAILED if isinstance(problem, ProxyFailed) else CANNOT_START


def _keep_logs(directory: Path) -> Path:
    """Copy Ray's logs out of the folder that is about to go."""
    logs = directory / "ray" / "session_latest" / "logs"
    kept = directory.with_name(f"{directory.name}-logs")
    if logs.is_dir():
        shutil.copytree(logs, kept, dirs_exist_ok=True, symlinks=True, ignore_dangling_symlinks=True)
    kept.mkdir(exist_ok=True)
    shutil.copy(directory / PRINTED, kept)
    return kept


def check(plan: Plan, console: Console) -> None:
    preflight.check_machine(Machine.this(os.environ), plan.file.max_replicas)
    preflight.check_port(plan.file.host, plan.file.http_port, "--port")
    preflight.check_port(plan.file.host, plan.file.grpc_port, "--grpc-port")
    other = preflight.other_ray()
    if other is not None:
        console.print(f"[dim]A Ray runs here already (process {other}); starting a private one beside it.[/]")


def wants_ha_proxy(plan: Plan, console: Console) -> bool:
    if plan.proxy == "default":
        return False
    problem = preflight.ha_proxy_problem()
    if problem is None:
        return True
    if plan.proxy == "haproxy":
        raise CannotStart(f"HAProxy cannot start here: {problem}. Use: --proxy auto")
    _warn(console, f"HAProxy cannot start here: {problem}. Using Ray Serve's default proxy, about 20 times slower.")
    return False


def _live(plan: Plan, console: Console, directory: Path, ha_proxy: bool) -> int:
    signals = Signals()
    signals.install()
    environment = {
        **ray_environment(directory, plan.file.http_port, ha_proxy),
        **(haproxy_environment(directory) if ha_proxy else {}),
        **environment_of(plan.overrides),
        **_metrics_environment(directory),
        PROGRESS_VARIABLE: str(directory / PROGRESS),
    }
    cluster = Cluster(directory, environment, signals.requested)
    try:
        _start(plan, console, signals, cluster, ProgressReader(directory / PROGRESS))
        generation = 0
        while signals.wait():
            generation += 1
            with _step(console, "Replacing the replicas one after the other, with the models as they are on disk now"):
                cluster.roll(plan.file.of_generation(generation))
        with _step(console, "Draining: answering what is in flight"):
            cluster.drain(str(plan.file.application["name"]), plan.url)
    except (StopRequested, SystemExit):  # Ray exits from its own signal handler until ours is back in place
        console.print("Stopping.")
    finally:
        cluster.stop()
    console.print("Stopped.")
    return 0


def _quiet(directory: Path) -> Console:
    """A console on the terminal, for us alone: what Ray prints, harmless alarms at every shutdown, goes to a file."""
    terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    with (directory / PRINTED).open("wb") as stream:
        os.dup2(stream.fileno(), sys.stdout.fileno())
        os.dup2(stream.fileno(), sys.stderr.fileno())
    width = None if terminal.isatty() else PLAIN_WIDTH
    return Console(file=terminal, highlight=False, soft_wrap=True, width=width)


def _metrics_environment(directory: Path) -> dict[str, str]:
    folder = directory / "metrics"
    folder.mkdir()
    return {"SWAN_METRICS_DIR": str(folder), "PROMETHEUS_MULTIPROC_DIR": str(folder)}


def _start(plan: Plan, console: Console, signals: Signals, cluster: Cluster, progress: ProgressReader) -> None:
    started = time.monotonic()
    with _step(console, "Starting Ray"):
        cluster.start_ray(plan.file.max_replicas * plan.file.cpus_per_replica + SYSTEM_CPUS)
        signals.install()  # ray.init put its own handlers in place
    with _step(console, "Starting the ingress"):
        cluster.start_serve(plan.file)
        cluster.wait_until_listening()
    text = f"Loading, warming up and profiling models in {plan.file.first_replicas} replica(s)"
    with _step(console, text) as tell:
        cluster.wait_until_running(str(plan.file.application["name"]), lambda: _show(progress, tell))
    with _step(console, "Waiting for the first answer"):
        cluster.wait_until_ready(plan.url)
    console.print(f"Ready after {time.monotonic() - started:.1f} s with {_memory_in_use()} MiB of memory")
    greet(plan, console)


def _memory_in_use() -> int:
    """Proportional share of all processes of the service, in MiB: shared pages count once."""
    supervisor = psutil.Process().parent() or psutil.Process()
    total = 0
    for process in (supervisor, *supervisor.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += int(process.memory_full_info().pss)
    return total >> 20


def _show(progress: ProgressReader, tell: Callable[[str], None]) -> None:
    for line in progress.new_lines():
        tell(line)


@contextmanager
def _step(console: Console, text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal, one line with its duration elsewhere. Yields how to tell what is being done."""
    began = time.monotonic()
    with console.status(f"{text} ...") as status:

        def tell(what: str) -> None:
            if console.is_terminal:
                status.update(f"{text}: {what} ...")
            else:
                console.print(f"  {what}")

        yield tell
    console.print(f"[green]✓[/] {text} [dim]({time.monotonic() - began:.1f} s)[/]")


def _warn(console: Console, text: str) -> None:
    console.print(f"[yellow]warning:[/] {text}")
