"""Loading, reloading and unloading at run time, with hooks that take their time and models that fail."""

from __future__ import annotations

import asyncio

import pytest

from models.interface import ServableModel
from service.errors import InvalidRequest, ModelFailed, NotFound, Unavailable
from service.inference.repository import LiveRepository, ModelState
from tests.support.tiny_models import MemorySource, TinyModel, add_sub


class Broken(TinyModel):
    def __init__(self) -> None:
        super().__init__("broken", (), (), lambda inputs: {})

    def warm_up(self) -> None:
        raise RuntimeError("secret at /root/x")


def source() -> MemorySource:
    return MemorySource(
        {
            ("add_sub", "2"): lambda: add_sub("2"),
            ("add_sub", "10"): lambda: add_sub("10"),
            ("broken", "1"): Broken,
        }
    )


def states(repository: LiveRepository) -> dict[str, tuple[ModelState, str]]:
    return {f"{one.name}/{one.version}": (one.state, one.reason) for one in repository.index()}


async def test_versions_are_numbers_not_texts() -> None:
    repository = LiveRepository(source())
    await repository.load("add_sub")
    assert repository.versions("add_sub") == ("2", "10")
    assert repository.find("add_sub").spec.version == "10"
    assert repository.find("add_sub", "2").spec.version == "2"


async def test_one_bad_model_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    repository = LiveRepository(source())
    await repository.load_all()
    found = states(repository)
    assert found["add_sub/2"] == (ModelState.READY, "")
    assert found["broken/1"][0] is ModelState.UNAVAILABLE
    assert "secret" not in found["broken/1"][1]
    assert "secret at /root/x" in caplog.text
    with pytest.raises(ModelFailed) as caught:
        await repository.load("broken")
    assert "secret" not in caught.value.message
    with pytest.raises(NotFound, match="no available versions"):
        repository.find("broken")


@pytest.mark.parametrize("name", ["nobody", "../etc", "", "a b", "x" * 129])
async def test_names_of_no_model(name: str) -> None:
    repository = LiveRepository(source())
    with pytest.raises(NotFound):
        await repository.load(name)
    with pytest.raises(NotFound):
        await repository.unload(name)
    with pytest.raises(NotFound):
        repository.find(name)


@pytest.mark.parametrize("version", ["0", "-1", "abc", "1.0", "٣", "9" * 30])
async def test_versions_of_no_model(version: str) -> None:
    repository = LiveRepository(source())
    await repository.load("add_sub")
    with pytest.raises(InvalidRequest, match="positive integer"):
        repository.find("add_sub", version)
    with pytest.raises(NotFound, match="version 7 is not found"):
        repository.find("add_sub", "7")


async def test_a_model_is_hidden_while_it_loads_and_while_it_leaves() -> None:
    may_load, may_leave = asyncio.Event(), asyncio.Event()
    announced: list[ServableModel] = []

    async def on_load(model: ServableModel) -> None:
        announced.append(model)
        await may_load.wait()

    async def on_unload(model: ServableModel) -> None:
        await may_leave.wait()
        announced.remove(model)

    repository = LiveRepository(MemorySource({("add_sub", "1"): add_sub}), on_load, on_unload)
    loading = asyncio.create_task(repository.load("add_sub"))
    while not announced:
        await asyncio.sleep(0)
    assert states(repository)["add_sub/1"][0] is ModelState.LOADING
    with pytest.raises(Unavailable, match="loading or unloading"):
        repository.find("add_sub")
    may_load.set()
    await loading
    assert repository.find("add_sub") is announced[0]

    await repository.unload("add_sub")
    assert states(repository)["add_sub/1"][0] is ModelState.UNLOADING
    with pytest.raises(Unavailable):
        repository.find("add_sub")
    may_leave.set()
    while announced:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert states(repository)["add_sub/1"] == (ModelState.UNAVAILABLE, "unloaded")


async def test_a_reload_announces_the_new_before_it_withdraws_the_old() -> None:
    story: list[tuple[str, ServableModel]] = []

    async def on_load(model: ServableModel) -> None:
        story.append(("load", model))

    async def on_unload(model: ServableModel) -> None:
        story.append(("unload", model))

    repository = LiveRepository(MemorySource({("add_sub", "1"): add_sub}), on_load, on_unload)
    await repository.load("add_sub")
    old = repository.find("add_sub")
    await repository.load("add_sub")
    new = repository.find("add_sub")
    assert story == [("load", old), ("load", new), ("unload", old)]
    assert new is not old
    assert states(repository)["add_sub/1"] == (ModelState.READY, "")


async def test_models_are_announced_only_when_none_is_being_prepared_any_more() -> None:
    """Announcing measures a model: nothing else may need the processor then."""
    told: list[str] = []

    async def announced(model: ServableModel) -> None:
        told.append(f"announced {model.spec.version}")

    repository = LiveRepository(source(), announced, say=told.append)
    await repository.load_all()
    first = told.index("announced 2")
    assert sorted(told[:first]) == ["loading add_sub"] * 2 + ["loading broken"] + ["warming up add_sub"] * 2 + [
        "warming up broken"
    ]
    assert told[first:] == ["announced 2", "announced 10"]
