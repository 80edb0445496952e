import base64
import json
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from service.api.auth import AllowAll, Scope
from service.commands.keys import app
from service.errors import Forbidden, Unauthenticated
from service.security.keys import (
    GRANTED,
    ApiKey,
    ApiKeyAuthorizer,
    KeyFileError,
    KeyRing,
    WatchedKeyRing,
    build_authorizer,
    create,
    credential,
)

INFER = [Scope.INFER]


def _authorizer(*keys: ApiKey, now: float = 1000.0) -> ApiKeyAuthorizer:
    ring = KeyRing(keys)
    return ApiKeyAuthorizer(lambda: ring, lambda: now)


def _basic(user: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(scope="module")
def shop() -> tuple[str, ApiKey]:
    return create("web-shop", INFER, tenant="shop")


def test_every_way_of_sending_a_key_finds_it(shop):
    key, entry = shop
    secret = key.rpartition("_")[2]
    authorizer = _authorizer(entry)
    ways = [
        {"authorization": f"Bearer {key}"},
        {"authorization": f"bearer {key} "},
        {"x-api-key": key},
        _basic("web-shop", key),
        _basic("web-shop", secret),
    ]
    for headers in ways:
        assert authorizer(headers, Scope.INFER).tenant == "shop", headers


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "wants an API key"),
        ({"authorization": "Bearer swan_web-shop_" + "0" * 64}, "unknown, expired or revoked"),
        ({"authorization": "Bearer swan_nobody_" + "0" * 64}, "unknown, expired or revoked"),
        ({"authorization": "Bearer something"}, "not an API key"),
        ({"authorization": "Digest x"}, "unknown authorization scheme"),
        ({"authorization": "Basic ***"}, "not base64 of ID:KEY"),
        ({"authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}, "not base64 of ID:KEY"),
        ({"x-api-key": "k" * 513}, "too long"),
        (_basic("other", "swan_web-shop_00"), "not the key's id"),
    ],
)
def test_a_bad_credential_is_unauthenticated_and_never_echoed(shop, headers, text):
    with pytest.raises(Unauthenticated) as caught:
        _authorizer(shop[1])(headers, Scope.INFER)
    assert text in caught.value.message
    assert "0000" not in caught.value.message


def test_scopes_do_not_imply_each_other():
    for granted in GRANTED:
        key, entry = create("one", [granted])
        authorizer = _authorizer(entry)
        for wanted in GRANTED:
            if wanted is granted:
                assert authorizer({"x-api-key": key}, wanted).tenant == "one"
            else:
                with pytest.raises(Forbidden, match=wanted.value):
                    authorizer({"x-api-key": key}, wanted)


def test_an_expired_key_is_refused():
    key, entry = create("brief", INFER, not_after=1000.0)
    assert _authorizer(entry, now=999.9)({"x-api-key": key}, Scope.INFER).tenant == "brief"
    with pytest.raises(Unauthenticated):
        _authorizer(entry, now=1000.0)({"x-api-key": key}, Scope.INFER)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=80), st.text(max_size=80))
def test_no_other_secret_opens_a_key(name, secret):
    key, entry = create("mine", INFER)
    found = KeyRing([entry]).find(name, secret, 0.0)
    assert found is None
    assert KeyRing([entry]).find("mine", key.rpartition("_")[2], 0.0) is entry


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.sampled_from(["authorization", "x-api-key", "other"]), st.text(max_size=600)))
def test_any_header_gives_a_credential_or_unauthenticated(headers):
    try:
        found = credential(headers)
    except Unauthenticated:
        return
    assert found is None or len(found) == 2


def test_the_file_holds_no_secret_is_private_and_round_trips(tmp_path, shop):
    key, entry = shop
    other_key, other = create("ops", [Scope.ADMIN, Scope.METRICS], not_after=5.0)
    path = tmp_path / "keys.json"
    KeyRing([entry, other]).save(path)
    text = path.read_text()
    assert key.rpartition("_")[2] not in text and other_key.rpartition("_")[2] not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing.load(path).keys == (entry, other)
    assert [file.name for file in tmp_path.iterdir()] == ["keys.json"]


def _file(**changes):
    entry = {"id": "a", "scopes": ["infer"], "tenant": "a", "salt": "0" * 32, "digest": "0" * 64, "not_after": None}
    return json.dumps({"format_version": 1, "keys": [entry | changes]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected"),
        ('{"format_version": 2, "keys": []}', "format_version"),
        ('{"format_version": 1, "keys": [1]}', r"keys\[0\]"),
        (_file(extra=1), "exactly the fields"),
        (_file(scopes=[]), "at least one scope"),
        (_file(scopes=["root"]), "root"),
        (_file(scopes=["health"]), "at least one scope"),
        (_file(id="../x"), "key id"),
        (_file(tenant="a b"), "tenant"),
        (_file(digest="zz"), "hex digits"),
        (_file(not_after="soon"), "soon"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path, text, message):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(KeyFileError, match=message):
        KeyRing.load(path)


def test_a_missing_file_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(KeyFileError, match="swan keys create"):
        KeyRing.load(tmp_path / "keys.json")


def test_a_duplicate_id_is_refused(shop):
    with pytest.raises(KeyFileError, match="twice"):
        KeyRing([shop[1], shop[1]])


def test_revoking_takes_effect_without_a_restart_and_a_broken_file_keeps_the_last_keys(tmp_path, shop):
    key, entry = shop
    path, now, problems = tmp_path / "keys.json", [0.0], []
    KeyRing([entry]).save(path)
    watched = WatchedKeyRing(path, clock=lambda: now[0], on_error=problems.append)
    authorizer = ApiKeyAuthorizer(watched.current)
    headers = {"x-api-key": key}
    assert authorizer(headers, Scope.INFER).tenant == "shop"

    path.write_text("{ broken")
    now[0] = 2.0
    assert authorizer(headers, Scope.INFER).tenant == "shop"
    assert len(problems) == 1 and "not valid JSON" in problems[0]

    KeyRing([entry]).without("web-shop").save(path)
    assert authorizer(headers, Scope.INFER).tenant == "shop", "one look a second"
    now[0] = 4.0
    with pytest.raises(Unauthenticated):
        authorizer(headers, Scope.INFER)

    path.unlink()
    now[0] = 6.0
    assert len(watched.current()) == 0 and len(problems) == 2


def test_the_command_creates_lists_and_revokes(tmp_path):
    run, file = CliRunner().invoke, str(tmp_path / "keys.json")
    made = run(app, ["create", "web", "--file", file, "--scope", "infer", "--scope", "metrics", "--days", "1"])
    assert made.exit_code == 0
    key = made.stdout.strip()
    authorizer = ApiKeyAuthorizer(lambda: KeyRing.load(tmp_path / "keys.json"))
    assert authorizer({"x-api-key": key}, Scope.METRICS).tenant == "web"
    listed = run(app, ["list", "--file", file])
    assert "infer metrics" in listed.stdout and key.rpartition("_")[2] not in listed.stdout
    assert run(app, ["create", "web", "--file", file]).exit_code == 2
    assert run(app, ["revoke", "web", "--file", file]).exit_code == 0
    assert run(app, ["revoke", "web", "--file", file]).exit_code == 2
    assert "web" not in run(app, ["list", "--file", file]).stdout
    assert run(app, ["list", "--file", str(tmp_path / "none.json")]).exit_code == 2


def test_probes_need_no_key_and_without_a_file_only_the_admin_plane_is_closed(tmp_path):
    _, entry = create("a", INFER)
    assert _authorizer(entry)({}, Scope.HEALTH).tenant == ""
    assert isinstance(build_authorizer(None, False, print), AllowAll)
    with pytest.raises(Forbidden):
        build_authorizer(None, False, print)({}, Scope.ADMIN)
    KeyRing([entry]).save(tmp_path / "keys.json")
    guarded = build_authorizer(tmp_path / "keys.json", True, print)
    with pytest.raises(Unauthenticated):
        guarded({}, Scope.ADMIN)


def test_without_keys_a_gateways_header_may_name_the_tenant():
    told = build_authorizer(None, False, print, "x-tenant")
    assert told({"x-tenant": "shop"}, Scope.INFER).tenant == "shop"
    assert told({}, Scope.INFER).tenant == ""
    assert len(told({"x-tenant": "x" * 1000}, Scope.INFER).tenant) == 64
    assert AllowAll()({"x-tenant": "shop"}, Scope.INFER).tenant == ""


def test_with_keys_a_header_names_no_tenant(tmp_path, shop):
    key, entry = shop
    KeyRing([entry]).save(tmp_path / "keys.json")
    authorizer = build_authorizer(tmp_path / "keys.json", False, print, "x-tenant")
    assert authorizer({"x-api-key": key, "x-tenant": "other"}, Scope.INFER).tenant == "shop"
