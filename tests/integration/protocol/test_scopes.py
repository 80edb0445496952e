"""Every route and RPC asks the authorizer once, for its own scope; health asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx
import pytest

from service.api import proto
from service.api.auth import AllowAll, Caller, Scope
from service.api.http import ExtraRoute
from service.errors import Forbidden, Overloaded, Unauthenticated
from tests.support.oip_clients import OipClient, int32
from tests.support.oip_server import OipServer


class Keys:
    """Key = name of the one scope it opens; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Scope] = []

    def __call__(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        self.asked.append(scope)
        key = headers.get("x-api-key")
        if key is None:
            raise Unauthenticated("an API key is needed")
        if key == "spent":
            raise Overloaded("the tenant's quota is used up", 2.5, "quota")
        if key != scope:
            raise Forbidden(f"this key lacks the scope {scope.value}")
        return Caller("tenant")


async def page(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"].endswith("/fail"):
        raise RuntimeError("secret")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


EXTRA = (
    ExtraRoute("/metrics", ("GET",), Scope.METRICS, page, "Prometheus text."),
    ExtraRoute("/admin/{what}", ("GET", "POST"), Scope.ADMIN, page),
)
KEYS = Keys()


@pytest.fixture(scope="module")
def server() -> Iterator[OipServer]:
    with OipServer(authorize=KEYS, extra_routes=EXTRA).running() as running:
        yield running


@pytest.fixture(scope="module")
def http(server: OipServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http_url}") as client:
        yield client


def fill(path: str) -> str:
    for name, value in {"model": "add_sub", "version": "1", "region": "r", "repository": "r", "what": "x"}.items():
        path = path.replace("{" + name + "}", value)
    return path


def test_every_route_asks_once(server: OipServer, http: httpx.Client) -> None:
    seen: dict[Scope | None, int] = {}
    for route in server.app.routes:
        for method in sorted(route.methods - {"HEAD"}):
            KEYS.asked.clear()
            answer = http.request(method, fill(route.path))
            assert len(KEYS.asked) <= 1, route.path
            scope = KEYS.asked[0] if KEYS.asked else None
            seen[scope] = seen.get(scope, 0) + 1
            assert answer.status_code == (401 if scope else 200), f"{method} {route.path}"
            if scope:
                assert answer.headers["www-authenticate"] == "Bearer"
                wrong = http.request(method, fill(route.path), headers={"x-api-key": "other"})
                assert wrong.status_code == 403
                assert set(wrong.json()) == {"error", "request_id"}
    assert set(seen) == {None, Scope.INFER, Scope.ADMIN, Scope.METRICS}
    assert seen[Scope.ADMIN] >= 11


@pytest.mark.parametrize(("method", "path"), [("POST", "/v2/repository/models/add_sub/load"), ("POST", "/v2/logging")])
def test_changing_things_needs_admin(http: httpx.Client, method: str, path: str) -> None:
    assert http.request(method, path, headers={"x-api-key": "infer"}).status_code == 403
    assert http.request(method, path, headers={"x-api-key": "admin"}).status_code == 200


def test_spent_quota(http: httpx.Client) -> None:
    answer = http.get("/v2", headers={"x-api-key": "spent"})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "3"


def test_every_rpc_asks_once(server: OipServer) -> None:
    health = {"ServerLive", "ServerReady", "ModelReady"}
    with grpc.insecure_channel(server.grpc_url) as channel:
        for method, streams in server.app.grpc.methods(proto.SERVICE).items():
            KEYS.asked.clear()
            code, retry = rpc(channel, method, streams, None)
            assert len(KEYS.asked) == (0 if method in health else 1), method
            if method in health:
                assert code is grpc.StatusCode.OK
                continue
            assert code is grpc.StatusCode.UNAUTHENTICATED, method
            assert rpc(channel, method, streams, "other")[0] is grpc.StatusCode.PERMISSION_DENIED
            code, retry = rpc(channel, method, streams, "spent")
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert retry == "2500"


def rpc(channel: grpc.Channel, method: str, streams: bool, key: str | None) -> tuple[grpc.StatusCode, str | None]:
    path = f"/{proto.SERVICE}/{method}"
    metadata = [("x-api-key", key)] if key else None
    try:
        if streams:
            list(channel.stream_stream(path)(iter([b""]), metadata=metadata))
        else:
            channel.unary_unary(path)(b"", metadata=metadata)
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        return error.code(), trailing.get("grpc-retry-pushback-ms")
    return grpc.StatusCode.OK, None


def test_clients_send_their_key(server: OipServer) -> None:
    for kind in ("http", "http.aio", "grpc", "grpc.aio"):
        client = OipClient(kind, server.http_url, server.grpc_url, headers={"x-api-key": "infer"})
        client.infer("identity_int32", {"x": int32(1)})
        client.close()


def test_other_parts_routes(http: httpx.Client) -> None:
    answer = http.get("/metrics", headers={"x-api-key": "metrics", "x-request-id": "m1"})
    assert answer.text == "ok"
    assert answer.headers["x-request-id"] == "m1"
    answer = http.get("/admin/fail", headers={"x-api-key": "admin"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["request_id"]


def test_admin_plane_is_off_by_default() -> None:
    authorize = AllowAll()
    assert authorize({}, Scope.INFER) == Caller("")
    with pytest.raises(Forbidden, match="the admin plane is off"):
        authorize({}, Scope.ADMIN)
