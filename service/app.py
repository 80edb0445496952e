"""The composition root: settings -> Ray Serve application. The only file that wires parts together."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from models.interface import ServableModel
from models.registry import load_package
from service.api.application import ApiOptions, OipApp
from service.api.auth import Authorizer, Scope
from service.api.http import ExtraRoute
from service.config import InvalidSetting, Settings, metrics_folder, progress_file
from service.console.console import Console
from service.console.live import LiveFeed
from service.console.routes import console_routes
from service.console.source import DataplaneSource
from service.control.fixed import Fixed
from service.control.policy import DrainFeasible
from service.control.quota import MacBuckets, Quota, Quotas
from service.control.set_points import Mode, SetPoints
from service.control.types import Policy
from service.engine.client import Engine
from service.engine.workers import EngineWorkers
from service.errors import ModelFailed
from service.host.coordinator import SetPointSource
from service.host.image_cache import link
from service.host.node_metrics import NodeMetrics
from service.host.operator_routes import MetricsRoute, SetPointRoute
from service.host.replica import Parts, ServiceReplica
from service.inference.dataplane import Dataplane, ServerIdentity
from service.inference.package_source import LoadFolder, PackageSource
from service.inference.progress import note_progress
from service.inference.readiness import Readiness
from service.inference.repository import LiveRepository
from service.scheduling.profiler import Profile, profile_model, user_cache
from service.scheduling.scheduler import Limits as SchedulerLimits
from service.scheduling.scheduler import Scheduler
from service.scheduling.worker import ThreadWorkers, Workers
from service.security.keys import KeyFileError, build_authorizer
from service.telemetry.exposition import collect
from service.telemetry.log import AccessLog, LogFormat, configure, get
from service.telemetry.metrics import Metrics
from service.telemetry.observer import RequestObserver
from service.telemetry.observing import AccessObserver, SpanObserver, Surroundings
from service.telemetry.tracing import TraceSettings, build_tracer
from swan_runtime.cache import cache_directory

GARBAGE_COLLECT_AT = 20_000  # new objects; at the default of 700, 6.6 % of a loaded loop's time went into looking


def build_app(args: Mapping[str, Any]) -> Any:
    """The Ray Serve application for `import_path: service.app:build_app`. Raises InvalidSetting."""
    from service.host.model_server import deployment

    return deployment().bind(Settings.load(args), start_replica)


async def start_replica(settings: Settings, source: SetPointSource) -> ServiceReplica:
    """Load, warm up and profile the models; returns when the first request would be as fast as the second."""
    configure(settings.log_level, LogFormat(settings.log_format))
    authorize = _authorizer(settings)  # first: a key file that cannot be read must not cost a start
    _use_one_thread_per_operation()
    link(settings.image_cache_dir, cache_directory())
    engine = _engine(settings)
    packages = PackageSource(settings.models_dir, settings.models, _load_gated(settings, engine))
    registry, folder = CollectorRegistry(), metrics_folder()
    metrics = Metrics(registry, packages.deadlines_s())
    limits = SchedulerLimits(settings.max_queue_requests)
    scheduler = Scheduler(_policy(settings), _workers(settings, engine), metrics, limits, quota=_quota(settings))

    say = partial(note_progress, progress_file())

    async def host(model: ServableModel) -> None:
        say(f"profiling {model.spec.name}")
        profile = await asyncio.to_thread(_profile, model, settings)
        metrics.profile_info.labels(model.spec.name, model.spec.version, profile.key, profile.source).set(1)
        scheduler.add_model(model, profile.fit.profile, profile.fit.adaptive)

    repository = LiveRepository(packages, host, scheduler.remove_model, say)
    await repository.load_all()
    if not any(entry.state == "READY" for entry in repository.index()):
        raise ModelFailed("no model could be loaded; the log above says why for each")
    readiness = Readiness()
    tracer = build_tracer(TraceSettings(settings.otlp_endpoint, settings.otlp_ratio, settings.server_name))
    identity = ServerIdentity(settings.server_name)
    dataplane = Dataplane(repository, scheduler, readiness, identity, _observers(settings))
    feed = LiveFeed(scheduler.publish_metrics, partial(collect, registry, folder))
    console = Console(DataplaneSource(dataplane, repository), feed)
    routes = (
        *console_routes(console, settings.limits),
        ExtraRoute("/metrics", ("GET",), Scope.METRICS, MetricsRoute(scheduler.publish_metrics, registry, folder)),
        ExtraRoute("/v2/control", ("GET", "POST"), Scope.ADMIN, SetPointRoute(source, settings.limits)),
    )
    options = ApiOptions(nan_as_null=settings.nan_as_null, around=Surroundings(tracer))
    app = OipApp(dataplane, authorize, settings.limits, options, routes)
    replica = ServiceReplica(Parts(app, scheduler, readiness, NodeMetrics(app), engine), _durable(settings))
    replica.configure({})
    replica.publish_metrics(settings.metrics_port)
    _collect_rarely()
    return replica


def _use_one_thread_per_operation() -> None:
    """Worker threads are the parallelism: an operation that spread over cores would fight with its neighbours."""
    os.environ["OMP_NUM_THREADS"] = "1"  # for torch, which a replica without a model of its own never imports
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def _collect_rarely() -> None:
    """What is loaded stays; requests leave hardly any cycles, but hold thousands of objects while they wait."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_COLLECT_AT, 20, 50)


def _engine(settings: Settings) -> Engine | None:
    if settings.engine == "thread":
        return None
    return Engine(settings.threads, settings.log_level, settings.log_format, settings.weights)


def _load_gated(settings: Settings, engine: Engine | None) -> LoadFolder:
    return engine.load if engine else partial(load_package, weights=settings.weights)


def _workers(settings: Settings, engine: Engine | None) -> Workers:
    threads = ThreadWorkers(settings.threads)
    return threads if engine is None else EngineWorkers(engine, threads)


def _policy(settings: Settings) -> Policy:
    return Fixed(budget=settings.fixed_budget) if settings.policy == "fixed" else DrainFeasible()


def _quota(settings: Settings) -> MacBuckets | None:
    def quota(macs_per_second: float) -> Quota:
        return Quota(macs_per_second, settings.quota_burst_s)

    everybody, single = settings.quota_macs_per_second, settings.quota_tenants
    if everybody is None and not single:
        return None
    tenants = {name: quota(macs_per_second) for name, macs_per_second in single.items()}
    return MacBuckets(Quotas(quota(everybody) if everybody is not None else None, tenants))


def _durable(settings: Settings) -> SetPoints:
    return SetPoints(mode=Mode.SHADOW if settings.policy == "shadow" else Mode.AUTO)


def _authorizer(settings: Settings) -> Authorizer:
    def complain(problem: str) -> None:
        get("security").error("api keys not read again", problem=problem)

    try:
        return build_authorizer(settings.api_keys_file, settings.admin_enabled, complain, settings.tenant_header)
    except KeyFileError as error:
        raise InvalidSetting(f"api_keys_file: {error}") from None


def _observers(settings: Settings) -> tuple[RequestObserver, ...]:
    access = AccessObserver(AccessLog(settings.access_log_sample))
    return (access, SpanObserver()) if settings.otlp_endpoint else (access,)


def _profile(model: ServableModel, settings: Settings) -> Profile:
    """One replica of a node measures at a time: the others wait for what it writes to the cache."""
    cache = settings.profile_cache_dir or user_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with _only_one(cache / "lock"):
        return profile_model(model, settings.threads, cache)


class _only_one:  # noqa: N801
    """A lock between processes, held while the context is open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        self._file.close()
