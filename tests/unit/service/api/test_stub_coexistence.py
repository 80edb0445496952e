"""Our messages and tritonclient's live in one process, whichever comes first; every number is the protocol's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from service.api import proto

OURS = "from service.api import proto; assert proto.ModelInferRequest(model_name='m').SerializeToString()"
THEIRS = "import tritonclient.grpc; from tritonclient.grpc import service_pb2; service_pb2.ModelInferRequest()"


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_both_import_orders(order: tuple[str, str]) -> None:
    code = "\n".join(["import sys", *order])
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path.cwd(), env=_environment())


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path.cwd()), "PATH": ""}


def test_every_field_is_the_protocols() -> None:
    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    ours = proto.POOL.FindFileByName("open_inference.proto").message_types_by_name
    assert set(ours) <= set(theirs)
    for name, message in ours.items():
        for field in message.fields:
            other = theirs[name].fields_by_name[field.name]
            assert (field.number, field.type) == (other.number, other.type), f"{name}.{field.name}"


def test_all_twenty_rpcs_are_defined() -> None:
    ours = proto.POOL.FindServiceByName(proto.SERVICE).methods_by_name
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert set(ours) == set(theirs)
    assert len(ours) == 20
    assert hasattr(service_pb2_grpc, "GRPCInferenceServiceStub")


def test_descriptors_are_compiled_from_the_sources(tmp_path: Path) -> None:
    folder = Path(proto.__file__).parent
    sources = sorted(str(path) for path in folder.glob("*.proto"))
    target = tmp_path / "fresh.binpb"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={target}", *sources]) == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(target.read_bytes())
    stored = descriptor_pb2.FileDescriptorSet.FromString((folder / "descriptors.binpb").read_bytes())
    assert {file.name: file for file in fresh.file} == {file.name: file for file in stored.file}, "run `make proto`"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError):
        _ = proto.NoSuchMessage
    with pytest.raises(AttributeError):
        _ = proto.lower
