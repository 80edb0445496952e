import asyncio
import io
import json
import logging

import pytest
import structlog

from service.telemetry import log


@pytest.fixture
def stream():
    saved = {name: (logging.getLogger(name).handlers, logging.getLogger(name).propagate) for name in log.OWN_LOGGERS}
    yield io.StringIO()
    structlog.reset_defaults()
    for name, (handlers, propagate) in saved.items():
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = handlers, propagate


def _lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_of_a_request_carries_its_id_also_from_other_modules_and_tasks(stream):
    log.configure("info", log.LogFormat.JSON, stream)

    async def inner():
        log.get("scheduler").info("shed", age_s=0.2)

    async def handle(request_id):
        with log.RequestContext(request_id):
            await asyncio.create_task(inner())
            logging.getLogger("uvicorn.error").warning("late %s", "client")
            logging.getLogger("service.api.status").error("unexpected")

    async def both():
        await asyncio.gather(handle("a"), handle("b"))

    asyncio.run(both())
    log.get("scheduler").info("idle")
    lines = _lines(stream)
    assert sorted(line["request_id"] for line in lines if line["event"] == "shed") == ["a", "b"]
    assert all(line["logger"] == "swan.scheduler" for line in lines if line["event"] == "shed")
    assert {"late client"} == {line["event"] for line in lines if line["logger"] == "uvicorn.error"}
    assert {line["request_id"] for line in lines if line["event"] == "unexpected"} == {"a", "b"}
    assert "request_id" not in lines[-1]
    assert all(line["timestamp"].endswith("Z") and line["level"] for line in lines)


def test_lines_below_the_level_are_dropped(stream):
    log.configure("warning", log.LogFormat.JSON, stream)
    log.get("x").info("no")
    log.get("x").warning("yes")
    assert [line["event"] for line in _lines(stream)] == ["yes"]


def test_an_unknown_level_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="debug, info, warning or error"):
        log.configure("loud")


def test_a_clients_string_can_neither_forge_nor_flood_a_line(stream):
    log.configure("info", log.LogFormat.HUMAN, stream)
    log.get("x").info("refused", model='a\n{"event": "forged"}\x1b[2J' + "x" * 10_000)
    text = stream.getvalue()
    assert text.count("\n") == 1 and "\x1b[2J" not in text
    assert len(text) < 1000


def test_a_traceback_is_one_json_line(stream):
    log.configure("info", log.LogFormat.JSON, stream)
    try:
        raise RuntimeError("inside")
    except RuntimeError:
        log.get("x").exception("model failed")
    (line,) = _lines(stream)
    assert "RuntimeError: inside" in line["exception"] and line["level"] == "error"


def test_the_access_log_keeps_every_failure_and_a_share_of_the_rest(stream):
    log.configure("info", log.LogFormat.JSON, stream)
    access = log.AccessLog(0.1, seed=7)
    assert 400 < sum(access.wanted(failed=False) for _ in range(5000)) < 600
    none = log.AccessLog(0.0)
    assert not any(none.wanted(failed=False) for _ in range(100))
    assert none.wanted(failed=True)
    with log.RequestContext("r1"):
        access.write(log.Access("m", "1", "ModelFailed", 0.0123, "shop", failed=True), {"reason": "x"})
    (line,) = _lines(stream)
    assert line["latency_ms"] == 12.3 and line["request_id"] == "r1" and line["tenant"] == "shop"
    assert line["level"] == "error" and line["reason"] == "x"


def test_a_ratio_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="0 to 1"):
        log.AccessLog(1.5)
