"""The OpenAPI document of the routes, and the same for people as one page without external assets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from html import escape
from importlib import resources
from typing import Any

import orjson
import yaml

from service.api.auth import Scope
from service.api.http import Answer, Call, ExtraRoute

_METHODS = ("get", "post", "put", "delete", "patch")
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { padding: .7rem; overflow: auto; background: color-mix(in srgb, currentColor 8%, transparent); border-radius: 6px }
details { border: 1px solid color-mix(in srgb, currentColor 20%, transparent); border-radius: 6px }
details { margin: .4rem 0; padding: .4rem .8rem }
summary { cursor: pointer }
b.m { display: inline-block; width: 3.5rem }
td { padding: .1rem 1rem .1rem 0; vertical-align: top }
"""


class ApiDescription:
    """Built when it is first asked for; mounted at /openapi.json and /docs."""

    def __init__(self, title: str, version: str, extra_routes: Iterable[ExtraRoute] = ()) -> None:
        self._title = title
        self._version = version
        self._extra_routes = tuple(extra_routes)

    @cached_property
    def document(self) -> dict[str, Any]:
        text = resources.files("service.api").joinpath("openapi.yaml").read_text(encoding="utf-8")
        document: dict[str, Any] = yaml.safe_load(text)
        document["info"] |= {"title": self._title, "version": self._version}
        for route in self._extra_routes:
            operations = document["paths"].setdefault(re.sub(r":\w+}", "}", route.path), {})
            for method in route.methods:
                operations[method.lower()] = _extra_operation(route, method)
        return document

    @cached_property
    def _json(self) -> bytes:
        return orjson.dumps(self.document)

    @cached_property
    def _page(self) -> bytes:
        return "".join(_page(self.document)).encode()

    async def openapi(self, call: Call) -> Answer:
        return Answer(self._json)

    async def docs(self, call: Call) -> Answer:
        return Answer(self._page, content_type=b"text/html; charset=utf-8")


def _extra_operation(route: ExtraRoute, method: str) -> dict[str, Any]:
    names = re.findall(r"{(\w+)(?::\w+)?}", route.path)
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()} {route.path}",
        "tags": ["administration" if route.scope is Scope.ADMIN else "other"],
        "summary": route.summary,
        "parameters": [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names],
        "responses": {
            "2XX": {"description": "Success."},
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
    if route.scope is Scope.HEALTH:
        operation["security"] = []
    return operation


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>"
    yield f"<h1>{title}</h1><p>{_prose(info['summary'])}</p><p>{_prose(info['description'])}</p>"
    yield "<p>Machines read <a href=openapi.json>openapi.json</a>.</p>"
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{_prose(tag.get('description', ''))}</p>"
        for path, item in document["paths"].items():
            for method in _METHODS:
                if tag["name"] in item.get(method, {}).get("tags", ()):
                    yield from _operation(document, path, method, item)
    yield "<h2>Schemas</h2>"
    for name, schema in document["components"]["schemas"].items():
        yield f"<details><summary><b>{escape(name)}</b> {_prose(schema.get('description', ''))}</summary>"
        yield f"{_code(schema)}</details>"
    yield "</html>"


def _operation(document: dict[str, Any], path: str, method: str, item: dict[str, Any]) -> Iterator[str]:
    operation = item[method]
    yield f"<details><summary><b class=m>{method.upper()}</b><code>{escape(path)}</code> "
    yield f"{_prose(operation.get('summary', ''))}</summary><p>{_prose(operation.get('description', ''))}</p><table>"
    for parameter in [*item.get("parameters", ()), *operation.get("parameters", ())]:
        found = _resolve(document, parameter)
        yield f"<tr><td><code>{escape(found['name'])}</code> ({found['in']})<td>{_prose(found.get('description', ''))}"
    for status, response in operation["responses"].items():
        yield f"<tr><td>{escape(status)}<td>{_prose(_resolve(document, response)['description'])}"
    yield "</table>"
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        schema = _resolve(document, body["schema"])
        yield _code(schema.get("examples", [schema])[0])
    yield "</details>"


def _resolve(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        for part in node["$ref"].removeprefix("#/").split("/"):
            document = document[part]
        return document
    return node


def _code(value: Any) -> str:
    return f"<pre>{escape(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())}</pre>"


def _prose(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
