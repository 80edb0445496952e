"""Stands in for the HAProxy binary: three changes to its configuration, then it becomes HAProxy.

Requests carry the time at which they came (X-Request-Start, as other proxies write it), so that a replica knows how
long one has waited for it. ModelInfer goes to the replicas' HTTP ports:

HAProxy translates HTTP/2 into HTTP/1.1, trailers included, for a hundredth of what grpc.aio takes for the same: three
batches, each of them two thread switches, in Python. Streams and all other RPCs go to the gRPC ports as ever, as does
everything while no replica is up. A configuration that is not as this file knows it is used unchanged.

Where there are replicas, Serve's own proxy does not stand in for them. It takes twenty times as much CPU a request and
hands them to the same replicas: once a pause of the machine had made these look dead for a moment, the load that they
bear otherwise drowned them by that way, and they stayed dead. Without it clients are told to come back in a second.

Run by path, at every start and reload: standard library only. Arguments: the real binary, and what it is given.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

STAMP = "http-request set-header x-request-start t=%[date(0,us)]"
RPC_PATH = "/inference.GRPCInferenceService/ModelInfer"

_BIND = re.compile(r"^ +bind .*\n", re.MULTILINE)
_DEFAULT = re.compile(r"^ +default_backend grpc-(\S+)$", re.MULTILINE)
_RULES = re.compile(r"^ +(?:use_backend|default_backend) ", re.MULTILINE)
_REPLICA = re.compile(r"^ +server (SERVE_REPLICA\S*) ", re.MULTILINE)
_STAND_IN = re.compile(r"^ +server \S+ .*\bbackup$\n?", re.MULTILINE)
_ACL = "swan_rpc_over_http"
NOBODY = (
    "http-error status 503 content-type application/json hdr Retry-After 1 "
    """string '{"error":"no replica answers now; come back in a second"}'"""
)


def rewritten(text: str) -> str:
    """The configuration with all changes; without one of them where its place cannot be found."""
    for head in ("frontend http_frontend", "frontend grpc_frontend"):
        frontend = _section(text, head)
        bind = _BIND.search(frontend)
        if bind is not None:
            text = text.replace(frontend, f"{frontend[: bind.end()]}    {STAMP}\n{frontend[bind.end() :]}")
    return _without_stand_in(_with_rpc_over_http(text))


def _without_stand_in(text: str) -> str:
    for head in re.findall(r"^backend \S+$", text, re.MULTILINE):
        backend = _section(text, head)
        if _REPLICA.search(backend) and _STAND_IN.search(backend):
            alone = _STAND_IN.sub("", backend)
            text = text.replace(backend, f"{head}\n    {NOBODY}{alone.removeprefix(head)}")
    return text


def _with_rpc_over_http(text: str) -> str:
    frontend = _section(text, "frontend grpc_frontend")
    default = _DEFAULT.search(frontend)
    rule = _RULES.search(frontend)
    if default is None or rule is None:
        return text
    backend = f"http-{default[1]}"
    replicas = _REPLICA.findall(_section(text, f"backend {backend}"))
    if not replicas:
        return text
    lines = [f"    acl {_ACL} srv_is_up({backend}/{name})\n" for name in replicas]
    lines.append(f"    use_backend {backend} if {_ACL} {{ path {RPC_PATH} }}\n")
    return text.replace(frontend, frontend[: rule.start()] + "".join(lines) + frontend[rule.start() :])


def _section(text: str, head: str) -> str:
    """From the line `head` to the next line that is not indented."""
    found = re.search(rf"^{re.escape(head)}\n(?:[ #\n].*\n?)*", text, re.MULTILINE)
    return found[0] if found else ""


def main(binary: str, *arguments: str) -> None:
    given = list(arguments)
    if "-f" in given:
        at = given.index("-f") + 1
        ours = Path(f"{given[at]}.swan")
        ours.write_text(rewritten(Path(given[at]).read_text(encoding="utf-8")), encoding="utf-8")
        given[at] = str(ours)
    os.execv(binary, [binary, *given])


if __name__ == "__main__":
    main(*sys.argv[1:])
