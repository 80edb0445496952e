"""API keys: scopes and tenants, hashed at rest, checked in constant time; HTTP headers and gRPC metadata alike."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from service.api.auth import AllowAll, Authorizer, Caller, Scope
from service.errors import Forbidden, Unauthenticated

FORMAT_VERSION = 1
KEY_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
TENANT = re.compile(r"[A-Za-z0-9._-]{0,64}")
PREFIX = "swan"
SECRET_BYTES = 32
MAX_CREDENTIAL_CHARS = 512  # longer credentials are refused before any hashing
RELOAD_INTERVAL_S = 1.0
GRANTED = (Scope.INFER, Scope.ADMIN, Scope.METRICS)  # what a key may do; scopes do not imply each other


class KeyFileError(ValueError):
    """The key file cannot be used; the text names the entry, never a hash."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One entry of the key file. salt, digest: hex; digest = SHA-256(salt + secret).

    The secrets are 256 random bits made by `create`, so a fast hash is right: there is nothing to guess, and a slow
    one would let anybody without a key keep a core busy. not_after: Unix time in seconds, None = does not expire.
    """

    id: str
    scopes: frozenset[Scope]
    tenant: str
    salt: str
    digest: str
    not_after: float | None = None

    def __post_init__(self) -> None:
        if not KEY_ID.fullmatch(self.id):
            raise KeyFileError(f"key id {self.id!r}: expected 1 to 64 of A-Z a-z 0-9 . -")
        if not TENANT.fullmatch(self.tenant):
            raise KeyFileError(f"key {self.id}: tenant {self.tenant!r}: expected at most 64 of A-Z a-z 0-9 . _ -")
        if not self.scopes or Scope.HEALTH in self.scopes:
            raise KeyFileError(f"key {self.id}: at least one scope of {', '.join(GRANTED)}, and no other")
        if not (re.fullmatch(r"[0-9a-f]{32}", self.salt) and re.fullmatch(r"[0-9a-f]{64}", self.digest)):
            raise KeyFileError(f"key {self.id}: salt and digest must be 32 and 64 hex digits")

    def expired(self, now_s: float) -> bool:
        return self.not_after is not None and now_s >= self.not_after


def create(
    key_id: str, scopes: Iterable[Scope], tenant: str = "", not_after: float | None = None
) -> tuple[str, ApiKey]:
    """Make a key: (the credential to hand out, shown once; the entry to store). Raises KeyFileError on a bad name."""
    secret, salt = secrets.token_hex(SECRET_BYTES), secrets.token_hex(16)
    entry = ApiKey(key_id, frozenset(scopes), tenant or key_id, salt, _digest(salt, secret), not_after)
    return f"{PREFIX}_{key_id}_{secret}", entry


def _digest(salt: str, secret: str) -> str:
    return hashlib.sha256(bytes.fromhex(salt) + secret.encode()).hexdigest()


class KeyRing:
    """The keys by id. `find` takes the same time for an unknown id as for a wrong secret."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys: dict[str, ApiKey] = {}
        for key in keys:
            if key.id in self._keys:
                raise KeyFileError(f"key id {key.id}: given twice")
            self._keys[key.id] = key
        _, self._nobody = create("nobody", [Scope.INFER])

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        return tuple(self._keys.values())

    def find(self, key_id: str, secret: str, now_s: float) -> ApiKey | None:
        key = self._keys.get(key_id, self._nobody)
        matches = hmac.compare_digest(_digest(key.salt, secret), key.digest)
        return key if matches and key is not self._nobody and not key.expired(now_s) else None

    def with_key(self, key: ApiKey) -> KeyRing:
        return KeyRing([*self.keys, key])

    def without(self, key_id: str) -> KeyRing:
        """Raises KeyFileError when there is no such key."""
        if key_id not in self._keys:
            raise KeyFileError(f"key id {key_id}: not in the file")
        return KeyRing(key for key in self.keys if key.id != key_id)

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner only, in one step: a running service never sees half of it."""
        entries = [asdict(key) | {"scopes": sorted(key.scopes)} for key in self.keys]
        text = json.dumps({"format_version": FORMAT_VERSION, "keys": entries}, indent=1) + "\n"
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mkstemp makes it mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @staticmethod
    def load(path: Path) -> KeyRing:
        """Raises KeyFileError on a missing file, unknown keys, a newer format or a bad entry."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise KeyFileError(
                f"API key file {path.name}: {error.strerror}; make one with `swan keys create`"
            ) from None
        except ValueError:
            raise KeyFileError(f"API key file {path.name}: not valid JSON") from None
        if not isinstance(raw, dict) or set(raw) != {"format_version", "keys"} or not isinstance(raw["keys"], list):
            raise KeyFileError(f'API key file {path.name}: expected {{"format_version", "keys": [...]}}')
        if raw["format_version"] != FORMAT_VERSION:
            raise KeyFileError(f"API key file {path.name}: format_version {FORMAT_VERSION} is what this version reads")
        return KeyRing(_entry(item, i) for i, item in enumerate(raw["keys"]))


def _entry(raw: Any, index: int) -> ApiKey:
    fields = set(ApiKey.__dataclass_fields__)
    if not isinstance(raw, dict) or set(raw) != fields:
        raise KeyFileError(f"keys[{index}]: expected exactly the fields {', '.join(sorted(fields))}")
    not_after = raw["not_after"]
    try:
        scopes = frozenset(Scope(scope) for scope in raw["scopes"])
        return ApiKey(
            id=str(raw["id"]),
            scopes=scopes,
            tenant=str(raw["tenant"]),
            salt=str(raw["salt"]),
            digest=str(raw["digest"]),
            not_after=None if not_after is None else float(not_after),
        )
    except (TypeError, ValueError) as error:
        raise error if isinstance(error, KeyFileError) else KeyFileError(f"keys[{index}]: {error}") from None


class WatchedKeyRing:
    """A key file that is read again when it changed, so that keys are added and revoked without a restart.

    At most one look at the file a second; a file that broke keeps the last good keys and calls `on_error`.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.monotonic,
        on_error: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._path, self._clock, self._on_error = path, clock, on_error
        self._stamp = self._look()
        self._ring = KeyRing.load(path)
        self._next_look_s = clock() + RELOAD_INTERVAL_S

    def current(self) -> KeyRing:
        now = self._clock()
        if now >= self._next_look_s:
            self._next_look_s = now + RELOAD_INTERVAL_S
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                self._reload()
        return self._ring

    def _reload(self) -> None:
        try:
            self._ring = KeyRing.load(self._path)
        except KeyFileError as error:
            self._on_error(str(error))

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def credential(headers: Mapping[str, str]) -> tuple[str, str] | None:
    """(key id, secret) of a request, None if it brought no credential at all.

    headers: lower-case names; gRPC metadata is the same mapping. `authorization: Bearer KEY`, `x-api-key: KEY`, or
    `authorization: Basic` with the key id as user name and the key (or its secret part) as password, which is what
    tritonclient's BasicAuth plugin sends. Raises Unauthenticated when there is one that cannot be read.
    """
    authorization = headers.get("authorization", "")
    key = headers.get("x-api-key", "")
    if len(authorization) > MAX_CREDENTIAL_CHARS or len(key) > MAX_CREDENTIAL_CHARS:
        raise Unauthenticated("the credential is too long to be an API key")
    if authorization:
        scheme, _, value = authorization.partition(" ")
        match scheme.lower():
            case "bearer":
                return _split(value.strip())
            case "basic":
                return _basic(value.strip())
        raise Unauthenticated("unknown authorization scheme: use `Bearer KEY`, `Basic ID:KEY` or the x-api-key header")
    return _split(key.strip()) if key else None


def _split(key: str) -> tuple[str, str]:
    prefix, _, rest = key.partition("_")
    key_id, found, secret = rest.rpartition("_")
    if prefix != PREFIX or not found:
        raise Unauthenticated(f"not an API key: expected {PREFIX}_ID_SECRET")
    return key_id, secret


def _basic(value: str) -> tuple[str, str]:
    try:
        user, found, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        user, found, password = "", "", ""
    if not found:
        raise Unauthenticated("Basic credential is not base64 of ID:KEY")
    if not password.startswith(f"{PREFIX}_"):
        return user, password
    key_id, secret = _split(password)
    if key_id != user:
        raise Unauthenticated("Basic user name is not the key's id")
    return key_id, secret


class ApiKeyAuthorizer:
    """The Authorizer of a service with API keys: every request against the key ring, health excepted."""

    def __init__(self, ring: Callable[[], KeyRing], clock: Callable[[], float] = time.time) -> None:
        self._ring, self._clock = ring, clock

    def __call__(self, headers: Mapping[str, str], scope: Scope) -> Caller:
        """Raises Unauthenticated without a valid key, Forbidden when the key lacks `scope`."""
        if scope is Scope.HEALTH:
            return Caller()
        found = credential(headers)
        if found is None:
            raise Unauthenticated("this service wants an API key: `authorization: Bearer KEY` or `x-api-key: KEY`")
        key = self._ring().find(*found, self._clock())
        if key is None:
            raise Unauthenticated("unknown, expired or revoked API key")
        if scope not in key.scopes:
            raise Forbidden(f"this API key lacks the scope {scope.value!r}")
        return Caller(key.tenant)


def build_authorizer(
    keys_file: Path | None, admin: bool, on_error: Callable[[str], None], tenant_header: str = ""
) -> Authorizer:
    """Keys from the file if there is one, else open to all with the admin plane as `admin` says.

    tenant_header: as in AllowAll; with keys the key alone says who pays.

    on_error: told when the file changed and cannot be read any more. Raises KeyFileError.
    """
    if keys_file is None:
        return AllowAll(admin, tenant_header)
    return ApiKeyAuthorizer(WatchedKeyRing(keys_file, on_error=on_error).current)
