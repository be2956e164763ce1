"""Descriptors: from a set, from `.proto` files, from files handed in; every mistake with its mend."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import sys
from pathlib import Path

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from pelton.errors import TargetError
from pelton.request.descriptors import (
    load,
    method_types,
    pool_of_files,
    pool_of_protos,
    pool_of_set,
)
from pelton.subscription import Descriptors
from tests.request.making import METHOD, SHOP, shop_file

PROTO = """
syntax = "proto3";
package shop.v1;
import "parts/item.proto";
import "google/protobuf/timestamp.proto";
message EventRequest { string message = 1; parts.Item item = 2; google.protobuf.Timestamp at = 3; }
message EventReply {}
service EventService { rpc HandleEvent(EventRequest) returns (EventReply); }
"""
PART = 'syntax = "proto3"; package parts; message Item { string sku = 1; }'


def set_file(tmp_path: Path, *files: FileDescriptorProto) -> str:
    path = tmp_path / "api.binpb"
    path.write_bytes(FileDescriptorSet(file=files).SerializeToString())
    return str(path)


def test_a_descriptor_set_without_the_well_known_types_is_whole(tmp_path: Path) -> None:
    types = load(Descriptors(descriptor_set=set_file(tmp_path, shop_file())))
    assert types is not None
    found = method_types(types, METHOD)
    assert (found.input.full_name, found.output.full_name) == ("shop.v1.EventRequest", "shop.v1.EventReply")
    assert types.services == ("shop.v1.EventService",)


def test_no_source_means_asking_the_server() -> None:
    assert load(Descriptors()) is None


def test_two_sources_may_have_the_same_names() -> None:
    other = FileDescriptorProto(name="shop.proto", package="shop.v1", syntax="proto3")
    other.message_type.add(name="EventRequest").field.add(name="other", number=1, type=9, label=1)
    other.message_type.add(name="EventReply")
    other.service.add(name="EventService").method.add(
        name="HandleEvent", input_type=".shop.v1.EventRequest", output_type=".shop.v1.EventReply"
    )
    second = method_types(pool_of_files([other], source="second"), METHOD).input
    assert list(second.fields_by_name) == ["other"]
    assert "other" not in method_types(SHOP, METHOD).input.fields_by_name
    assert message_factory.GetMessageClass(second)(other="x").SerializeToString() == b"\n\x01x"


def test_files_come_in_any_order_and_repeat() -> None:
    chain = [FileDescriptorProto(name=f"{n}.proto", package="p", syntax="proto3") for n in range(2000)]
    for file, needed in itertools.pairwise(chain):
        file.dependency.append(needed.name)
    chain[0].dependency.append(chain[1999].name)
    types = pool_of_files([*chain, *chain], source="chain")
    assert types.pool.FindFileByName("0.proto").package == "p"


def test_files_that_import_one_another_are_refused() -> None:
    one = FileDescriptorProto(name="one.proto", syntax="proto3", dependency=["two.proto"])
    two = FileDescriptorProto(name="two.proto", syntax="proto3", dependency=["one.proto"])
    with pytest.raises(TargetError, match=r"reflection: .* is not valid"):
        pool_of_files([one, two], source="reflection")


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("HandleEvent", "not the path of a method. Write /package.Service/Method."),
        ("shop.v1.EventService/HandleEvent", "not the path of a method"),
        ("/shop.v1.EventService", "not the path of a method"),
        ("/shop.v1.EventService/", "not the path of a method"),
        ("/shop.v1.EventService/A/B", "not the path of a method"),
        ("/shop.v1.EventServise/HandleEvent", "Did you mean shop.v1.EventService?"),
        ("/EventService/HandleEvent", "Did you mean shop.v1.EventService?"),
        ("/com.other.EventService/HandleEvent", "Did you mean shop.v1.EventService?"),
        ("/zzz.Zzz/Zzz", "no service zzz.Zzz in shop.binpb. It has shop.v1.EventService."),
        ("/shop.v1.EventService/Handle", "has no method Handle. Its methods: HandleEvent, Upload, Watch."),
        ("/shop.v1.EventService/Upload", "the method is streaming"),
        ("/shop.v1.EventService/Watch", "the method is streaming"),
    ],
)
def test_mistakes_in_the_method_name_what_there_is(method: str, says: str) -> None:
    with pytest.raises(TargetError) as error:
        method_types(SHOP, method)
    assert says in str(error.value)
    assert str(error.value).startswith(method)


def test_a_set_without_a_service_says_so(tmp_path: Path) -> None:
    types = pool_of_set(set_file(tmp_path, FileDescriptorProto(name="a.proto")))
    with pytest.raises(TargetError, match="There is no service at all in it"):
        method_types(types, METHOD)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xff\xff", "this is no descriptor set"),
        (b'syntax = "proto3";', "no descriptor"),
        (b"", "there are no descriptors in it"),
        (
            FileDescriptorSet(
                file=[FileDescriptorProto(name="a.proto", dependency=["b/c.proto"])]
            ).SerializeToString(),
            "a.proto imports b/c.proto, which is not in it. Make it with --include_imports.",
        ),
        (
            FileDescriptorSet(
                file=[FileDescriptorProto(name="a.proto", syntax="proto9")]
            ).SerializeToString(),
            "a.proto is not valid",
        ),
    ],
)
def test_files_that_are_no_descriptor_sets(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "api.binpb"
    path.write_bytes(content)
    with pytest.raises(TargetError) as error:
        pool_of_set(str(path))
    assert says in str(error.value)
    assert str(path) in str(error.value)


def test_a_set_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"nowhere: the descriptor set cannot be read: No such file"):
        pool_of_set(str(tmp_path / "nowhere"))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "shop.proto").write_text(PROTO)
    (tmp_path / "parts" / "item.proto").write_text(PART)
    return tmp_path


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it, and no grpcio-tools; the test puts there what it needs."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return place


def test_proto_files_with_no_compiler_say_what_to_install(sources: Path, only: Path) -> None:
    with pytest.raises(TargetError) as error:
        pool_of_protos([str(sources / "shop.proto")])
    assert "nothing that compiles .proto files is installed. Install grpcio-tools, or protoc." in str(
        error.value
    )
    assert "protoc --include_imports --descriptor_set_out" in str(error.value)


def test_proto_files_by_buf(sources: Path, only: Path) -> None:
    buf = shutil.which("buf", path=os.path.dirname(sys.executable))
    if buf is None:
        pytest.skip("buf is not installed beside the interpreter")
    (only / "buf").symlink_to(buf)
    types = load(Descriptors(proto_files=(str(sources / "shop.proto"),), proto_paths=(str(sources),)))
    assert types is not None
    assert list(method_types(types, METHOD).input.fields_by_name) == ["message", "item", "at"]
    with pytest.raises(TargetError, match="buf is there, and takes one proto path only"):
        pool_of_protos([str(sources / "shop.proto")], [str(sources), str(only)])


def test_protoc_gets_the_paths_and_its_words_are_told(sources: Path, only: Path) -> None:
    """A stand-in for protoc that writes down how it was called, then answers as it is told."""
    (sources / "set").write_bytes(FileDescriptorSet(file=[shop_file()]).SerializeToString())
    stand_in = only / "protoc"
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        f"open({str(sources / 'called')!r}, 'w').write('\\n'.join(sys.argv[1:]))\n"
        "out = next(a for a in sys.argv if a.startswith('--descriptor_set_out='))\n"
        "if sys.argv[-1].endswith('bad.proto'): sys.exit('bad.proto:3:1: Expected top-level statement')\n"
        f"shutil.copy({str(sources / 'set')!r}, out.partition('=')[2])\n"
    )
    stand_in.chmod(0o755)
    file = str(sources / "shop.proto")
    assert pool_of_protos([file]).services == ("shop.v1.EventService",)
    called = (sources / "called").read_text().splitlines()
    assert called[0] == f"--proto_path={sources}"
    assert called[1] == "--include_imports"
    assert called[-1] == file

    (sources / "bad.proto").write_text("nonsense")
    with pytest.raises(TargetError, match=r"do not compile:\nbad.proto:3:1: Expected top-level"):
        pool_of_protos([str(sources / "bad.proto")])


def test_a_proto_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"gone\.proto: no such \.proto file"):
        pool_of_protos([str(tmp_path / "gone.proto")])
