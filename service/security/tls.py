"""TLS and mutual TLS for the ports this process opens itself (standalone mode): one setting, uvicorn and grpc.aio.

Behind HAProxy or an ingress, TLS ends there instead: docs/security.md.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc


class TlsError(ValueError):
    """The certificate files cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """PEM files. client_ca: only clients with a certificate of these authorities may connect (mutual TLS)."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None

    def check(self) -> TlsSettings:
        """Return self, or raise TlsError: a file is missing, not PEM, or key and certificate do not belong together."""
        for name in ("certificate", "private_key", "client_ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise TlsError(f"tls {name}: no file {path}")
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.private_key, password=_refuse_passphrase)
        except (ssl.SSLError, ValueError) as error:
            raise TlsError(f"tls certificate and private_key: not a matching PEM pair ({error})") from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError:
                raise TlsError("tls client_ca: no PEM certificate in it") from None
        return self

    def uvicorn_options(self) -> dict[str, Any]:
        """Keyword arguments for uvicorn.Config. TLS 1.2 and newer, as Python's default context."""
        options: dict[str, Any] = {
            "ssl_certfile": str(self.certificate),
            "ssl_keyfile": str(self.private_key),
            "ssl_cert_reqs": ssl.CERT_NONE,
        }
        if self.client_ca is not None:
            options |= {"ssl_ca_certs": str(self.client_ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
        return options

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Credentials for grpc.aio.Server.add_secure_port."""
        roots = self.client_ca.read_bytes() if self.client_ca is not None else None
        pair = (self.private_key.read_bytes(), self.certificate.read_bytes())
        return grpc.ssl_server_credentials([pair], root_certificates=roots, require_client_auth=roots is not None)


def _refuse_passphrase() -> str:
    raise TlsError("tls private_key: is encrypted; give it without a passphrase, readable by the service's user only")
