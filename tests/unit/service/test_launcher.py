"""What `swan serve` checks and derives before it starts Ray."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from service.config import InvalidSetting
from service.launcher.preflight import CannotStart, Machine, check_machine, check_port
from service.launcher.ray_environment import (
    BLOCK,
    FIRST_PORT,
    LAST_PORT,
    REPLICA_PORTS,
    free_ports,
    port_block,
    ray_environment,
)
from service.launcher.run import proxies_to_try
from service.launcher.serve_file import ServeFile, default_path

FINE = Machine(python=(3, 11), memory_available_bytes=8 << 30, shared_memory_free_bytes=1 << 30, environment={})


def test_a_sound_machine_passes() -> None:
    check_machine(FINE, replicas=2)
    check_machine(replace(FINE, shared_memory_free_bytes=None), replicas=2)


@pytest.mark.parametrize(
    ("machine", "problem", "way_out"),
    [
        (replace(FINE, python=(3, 10)), "3.10", "make PYTHON="),
        (replace(FINE, memory_available_bytes=1 << 30), "1024 MiB", "--replicas"),
        (replace(FINE, shared_memory_free_bytes=64 << 20), "/dev/shm", "--shm-size"),
        (replace(FINE, environment={"RAY_ADDRESS": "auto"}), "RAY_ADDRESS=auto", "Unset"),
    ],
)
def test_each_problem_is_one_line_with_a_way_out(machine: Machine, problem: str, way_out: str) -> None:
    with pytest.raises(CannotStart) as caught:
        check_machine(machine, replicas=2)
    text = str(caught.value)
    assert problem in text
    assert way_out in text
    assert "\n" not in text


def test_a_port_in_use_names_the_option_and_the_process() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(CannotStart, match=rf"port {port} is in use by .* --grpc-port \d+"):
            check_port("127.0.0.1", port, "--grpc-port")
    check_port("127.0.0.1", port, "--grpc-port")


def test_a_foreign_address_is_explained() -> None:
    with pytest.raises(CannotStart, match=r"--host 127\.0\.0\.1"):
        check_port("192.0.2.1", free_ports(1)[0], "--port")


def test_two_services_share_no_port(tmp_path: Path) -> None:
    first, second = (ray_environment(tmp_path / str(port), port, True) for port in (8000, 8010))
    ports = [name for name in first if name.endswith("_PORT")]
    assert len(ports) >= 8
    assert not {first[name] for name in ports} & {second[name] for name in ports}
    start, end = (
        int(first["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]),
        int(first["RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT"]),
    )
    assert not start <= int(second["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"]) <= end


def test_a_block_in_use_is_skipped() -> None:
    free = port_block(8000)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", free + REPLICA_PORTS))
        listener.listen()
        assert abs(port_block(8000) - free) >= BLOCK


def test_a_block_is_skipped_whose_proxy_port_any_program_holds_on_any_address() -> None:
    free = port_block(8000)
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as holder:
            holder.bind((host, free + BLOCK - 1))  # bound, not listening: a client's socket
            assert abs(port_block(8000) - free) >= BLOCK
    assert port_block(8000) == free


def test_no_port_of_a_service_is_one_that_the_system_gives_to_clients(tmp_path: Path) -> None:
    environment = ray_environment(tmp_path, 8000, True)
    ports = {int(environment[name]) for name in environment if name.endswith("_PORT")}
    assert all(FIRST_PORT <= port < LAST_PORT for port in ports)


def test_the_command_line_patches_a_copy() -> None:
    file = ServeFile.read(default_path())
    patched = file.patched(host="::1", http_port=1, grpc_port=2, replicas=3, threads=4)
    assert (patched.host, patched.http_port, patched.grpc_port) == ("::1", 1, 2)
    assert (patched.max_replicas, patched.cpus_per_replica) == (3, 4.0)
    assert (file.http_port, file.grpc_port) == (8000, 8001)


def test_a_number_of_replicas_turns_autoscaling_off(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    deployment = {"name": "ModelServer", "autoscaling_config": {"min_replicas": 1, "max_replicas": 5}}
    path.write_text(yaml.safe_dump({"applications": [{"name": "swan", "deployments": [deployment]}]}))
    file = ServeFile.read(path)
    assert file.max_replicas == 5
    assert "autoscaling_config" not in file.patched(replicas=2).deployment


@pytest.mark.parametrize(("cores", "most"), [(1, 1), (2, 1), (4, 3), (64, 4)])
def test_one_machine_gets_no_more_replicas_than_it_has_cores_for(cores: int, most: int) -> None:
    file = ServeFile.read(default_path())
    fitted = file.fitted(cores)
    assert (fitted.first_replicas, fitted.max_replicas) == (1, most)
    assert file.patched(replicas=7).fitted(cores).max_replicas == 7


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("applications: []", "exactly one entry in `applications`"),
        ("applications: [{deployments: [{}, {}]}]", "exactly one entry in `deployments`"),
    ],
)
def test_a_broken_file_is_explained(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(InvalidSetting, match=problem):
        ServeFile.read(path)
    with pytest.raises(InvalidSetting, match="cannot read"):
        ServeFile.read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("wanted", "ha_proxy", "tried"),
    [
        ("auto", True, (True, True, False)),
        ("haproxy", True, (True, True)),
        ("auto", False, (False,)),
        ("default", False, (False,)),
    ],
)
def test_an_ingress_that_does_not_come_up_is_tried_again_before_the_slow_one(
    wanted: str, ha_proxy: bool, tried: tuple[bool, ...]
) -> None:
    assert proxies_to_try(wanted, ha_proxy) == tried
