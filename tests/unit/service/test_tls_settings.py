import ssl
from pathlib import Path

import pytest
import trustme

from service.security.tls import TlsError, TlsSettings


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    for name in ("server", "other"):
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "empty.pem").write_text("not a certificate")
    return folder


def _settings(folder: Path, certificate="server.pem", key="server.key", ca=None):
    return TlsSettings(folder / certificate, folder / key, folder / ca if ca else None)


def test_a_good_pair_is_accepted_and_mutual_tls_asks_for_a_client_certificate(pem):
    assert _settings(pem).check().uvicorn_options()["ssl_cert_reqs"] == ssl.CERT_NONE
    options = _settings(pem, ca="ca.pem").check().uvicorn_options()
    assert options["ssl_cert_reqs"] == ssl.CERT_REQUIRED and options["ssl_ca_certs"].endswith("ca.pem")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"certificate": "none.pem"}, "tls certificate: no file"),
        ({"key": "other.key"}, "not a matching PEM pair"),
        ({"certificate": "empty.pem"}, "not a matching PEM pair"),
        ({"ca": "empty.pem"}, "no PEM certificate"),
    ],
)
def test_unusable_files_are_refused_at_the_start(pem, changes, text):
    with pytest.raises(TlsError, match=text):
        _settings(pem, **changes).check()


def test_an_encrypted_key_is_refused_instead_of_asking_on_the_terminal(pem):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((pem / "server.key").read_bytes(), None)
    (pem / "locked.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"x"),
        )
    )
    with pytest.raises(TlsError, match="passphrase"):
        _settings(pem, key="locked.key").check()
