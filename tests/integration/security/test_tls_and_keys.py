"""TLS, mutual TLS and API keys over real sockets with the real tritonclient."""

import ssl
from contextlib import contextmanager

import gevent.ssl
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.grpc.auth
import tritonclient.http
import tritonclient.http.auth
import trustme
from geventhttpclient.response import HTTPConnectionClosed
from tritonclient.utils import InferenceServerException

from service.api.auth import Scope
from service.security.keys import ApiKeyAuthorizer, KeyRing, create
from service.security.tls import TlsSettings
from tests.support.oip_server import OipServer

INFER_KEY, INFER_ENTRY = create("shop", [Scope.INFER])
ADMIN_KEY, ADMIN_ENTRY = create("ops", [Scope.ADMIN])
RING = KeyRing([INFER_ENTRY, ADMIN_ENTRY])


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    for name, identity in (("server", "localhost"), ("client", "client@example.org")):
        issued = authority.issue_cert(identity)
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return folder


@pytest.fixture(scope="module")
def keyed():
    with OipServer(authorize=ApiKeyAuthorizer(lambda: RING)).running() as server:
        yield server


@contextmanager
def _client(server, protocol, plugin=None, **options):
    library = getattr(tritonclient, protocol)
    client = library.InferenceServerClient(
        getattr(server, f"{protocol}_url").replace("127.0.0.1", "localhost"), **options
    )
    if plugin:
        client.register_plugin(plugin)
    try:
        yield client, library
    finally:
        client.close()


def _infer(client, library, headers=None):
    tensor = library.InferInput("x", [1, 3], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 3), np.float32))
    return client.infer("identity_fp32", [tensor], headers=headers and dict(headers)).as_numpy("y")


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("headers", [{"authorization": f"Bearer {INFER_KEY}"}, {"x-api-key": INFER_KEY}])
def test_a_key_opens_inference_and_nothing_else(keyed, protocol, headers):
    with _client(keyed, protocol) as (client, library):
        assert _infer(client, library, headers).sum() == 3.0
        assert client.get_server_metadata(headers=headers)
        with pytest.raises(InferenceServerException, match="lacks the scope 'admin'"):
            client.unload_model("identity_fp32", headers=headers)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritonclients_basic_auth_plugin_works(keyed, protocol):
    auth = getattr(tritonclient, protocol).auth.BasicAuth
    with _client(keyed, protocol, auth("shop", INFER_KEY)) as (client, library):
        assert _infer(client, library).sum() == 3.0
    refused = pytest.raises(InferenceServerException, match="user name")
    with _client(keyed, protocol, auth("ops", INFER_KEY)) as (client, library), refused:
        _infer(client, library)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_without_a_key_only_health_answers(keyed, protocol):
    with _client(keyed, protocol) as (client, library):
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("identity_fp32")
        for call in (
            lambda: _infer(client, library),
            client.get_server_metadata,
            client.get_inference_statistics,
            lambda: client.get_model_config("identity_fp32"),
            client.get_model_repository_index,
            lambda: client.unload_model("identity_fp32"),
        ):
            with pytest.raises(InferenceServerException, match="wants an API key") as caught:
                call()
            assert caught.value.status() in ("401", "StatusCode.UNAUTHENTICATED")
        assert client.is_model_ready("identity_fp32"), "nothing was unloaded"


def test_an_admin_key_loads_and_unloads_but_does_not_infer(keyed):
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    with _client(keyed, "grpc") as (client, library):
        client.unload_model("add_sub", headers=headers)
        client.load_model("add_sub", headers=headers)
        assert client.is_model_ready("add_sub")
        with pytest.raises(InferenceServerException, match="lacks the scope 'infer'"):
            _infer(client, library, headers)


def _options(protocol, pem, with_certificate):
    if protocol == "grpc":
        pair = (
            {"private_key": f"{pem}/client.key", "certificate_chain": f"{pem}/client.pem"} if with_certificate else {}
        )
        return {"ssl": True, "root_certificates": f"{pem}/ca.pem", **pair}
    context = gevent.ssl.create_default_context(cafile=f"{pem}/ca.pem")
    if with_certificate:
        context.load_cert_chain(f"{pem}/client.pem", f"{pem}/client.key")
    return {"ssl": True, "ssl_context_factory": lambda: context}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tls_on_both_ports(pem, protocol):
    tls = TlsSettings(pem / "server.pem", pem / "server.key").check()
    with OipServer().running(tls) as server:
        with _client(server, protocol, **_options(protocol, pem, False)) as (client, library):
            assert _infer(client, library).sum() == 3.0
        with _client(server, protocol) as (client, _), pytest.raises(Exception):  # noqa: B017 each transport has its own
            assert client.get_server_metadata()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_mutual_tls_wants_a_certificate_of_the_authority(pem, protocol):
    tls = TlsSettings(pem / "server.pem", pem / "server.key", pem / "ca.pem").check()
    with OipServer().running(tls) as server:
        with _client(server, protocol, **_options(protocol, pem, True)) as (client, library):
            assert _infer(client, library).sum() == 3.0
        refused = pytest.raises((InferenceServerException, ssl.SSLError, OSError, HTTPConnectionClosed))
        with _client(server, protocol, **_options(protocol, pem, False)) as (client, library), refused:
            _infer(client, library)
