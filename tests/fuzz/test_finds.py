"""Files that once ended in a traceback, in pages of text or in all of the memory: each has its sentence now."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from onnx import ModelProto, TensorProto
from torch import Tensor

from cyclegan_fast.checkpoint.reference_format import load_reference_generator, to_reference
from cyclegan_fast.data.locations.shards import read_shard
from cyclegan_fast.engine.backends.onnx_file import parse_onnx
from cyclegan_fast.errors import UserError
from tests.fuzz import targets

LONG = "x" * 5000


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(UserError) as refused:
        read()
    return targets.check_refusal(refused.value)


# ---- Tar shards.
def write_tar(path: Path, *members: tuple[str, dict[str, str], bytes]) -> Callable[[], object]:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, headers, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(content), headers
            archive.addfile(member, io.BytesIO(content))
    return lambda: read_shard(str(path))


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "1,x", "GNU.sparse.size": "5"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.png"},
        {"GNU.sparse.size": "x"},
        {"GNU.sparse.realsize": "x"},
        {"size": "9" * 26},
    ],
)
def test_numbers_in_a_tar_that_are_none(headers: dict[str, str], tmp_path: Path) -> None:
    assert "a.tar: this archive is damaged (" in refusal(write_tar(tmp_path / "a.tar", ("a.png", headers, b"x\ny\n")))


def test_a_record_of_a_tar_that_is_longer_than_any(tmp_path: Path) -> None:
    header, record = tarfile.TarInfo("x"), b"9" * 30 + b" a=b\n"
    header.type, header.size = tarfile.XHDTYPE, len(record)
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + record.ljust(512, b"\0") + bytes(1024))
    assert "a.tar: this archive is damaged (" in refusal(lambda: read_shard(str(tmp_path / "a.tar")))


@pytest.mark.parametrize("size", ["-1", "-600", "-2000", "-5000"])
def test_a_member_of_a_negative_size_is_not_read_for_ever(size: str, tmp_path: Path) -> None:
    read = write_tar(tmp_path / "a.tar", ("a.png", {}, b"x" * 600), ("b.png", {"size": size}, b"x"))
    assert "a.tar: this archive is damaged (its members lie one in the other)" in refusal(read)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_chain_of_headers_that_precede_each_other(kind: bytes, tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 9
    block = header.tobuf(tarfile.USTAR_FORMAT) + b"9 a=bcde\n".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(block * 3000 + bytes(1024))
    assert "a.tar: this archive is damaged (" in refusal(lambda: read_shard(str(tmp_path / "a.tar")))


@pytest.mark.parametrize("name", ["../a\nb", f"../{LONG}"])
def test_the_name_of_a_member_in_a_message_is_short(name: str, tmp_path: Path) -> None:
    assert "leads out of the archive" in refusal(write_tar(tmp_path / "a.tar", (name, {}, b"x")))


# ---- The reference's .pth files.
def write_pth(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Callable[[], object]:
    path, tensors = folder / "latest_net_G_A.pth", dict(to_reference(targets._generator().network))
    change(tensors)
    torch.save(tensors, path)
    return lambda: load_reference_generator(path)


def test_views_that_repeat_a_value_take_no_memory(tmp_path: Path) -> None:
    def enlarge(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():  # a network of terabytes in a file of kilobytes
            shape = [side * 10**5 if side in (2, 4, 8) else side for side in tensor.shape]
            tensors[name] = torch.zeros(1).expand(*shape)

    read = write_pth(tmp_path, enlarge)
    assert (tmp_path / "latest_net_G_A.pth").stat().st_size < 20_000
    assert "has tensors of more values than it holds" in refusal(read)


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: torch.empty(x.shape, device="meta"),
        Tensor.to_sparse,
        lambda x: x.to(torch.complex64),
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8),
        lambda x: x > 0,
    ],
    ids=["without values", "sparse", "complex", "quantised", "truths"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_another_kind(turn: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    name = "model.1.weight"
    read = write_pth(tmp_path, lambda tensors: tensors.update({name: turn(tensors[name])}))
    assert f"'{name}' is no tensor of plain numbers" in refusal(read)


@pytest.mark.parametrize("name", ["a\nb", LONG])
def test_the_name_of_a_tensor_in_a_message_is_short(name: str, tmp_path: Path) -> None:
    assert "is not part of the network" in refusal(
        write_pth(tmp_path, lambda tensors: tensors.update({name: torch.zeros(1)}))
    )


# ---- ONNX files.
def graph(which: int, change: Callable[[ModelProto], object]) -> bytes:
    model = ModelProto.FromString(targets._graphs()[which])
    change(model)
    return model.SerializeToString()


@pytest.mark.parametrize("name", ["a\nb", LONG])
def test_the_name_of_an_input_in_a_message_is_short(name: str) -> None:
    def change(model: ModelProto) -> None:
        model.graph.input[0].name = name
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT8

    assert "is no image" in refusal(lambda: parse_onnx(graph(0, change), "g.onnx"))


@pytest.mark.parametrize("name", ["a\nb", LONG, f"../{LONG}", "a\0b", "."])
def test_the_name_of_a_file_of_weights(name: str, tmp_path: Path) -> None:
    def change(model: ModelProto) -> None:
        model.graph.initializer[0].external_data[0].value = name

    assert "g.onnx keeps its weights in '" in refusal(lambda: parse_onnx(graph(2, change), "g.onnx", folder=tmp_path))


def test_a_graph_whose_shapes_cannot_be_inferred() -> None:
    content = graph(1, lambda model: model.opset_import.pop())
    assert "g.onnx is damaged, or not an ONNX file: " in refusal(lambda: parse_onnx(content, "g.onnx"))


# ---- Videos.
@pytest.mark.parametrize("duration", [b"abc", b"nan:0:0", b"inf:0:0", b"1:2", b"1e300:0:0"])
def test_a_duration_that_is_none(duration: bytes, tmp_path: Path) -> None:
    content = targets._videos()[1]
    at = content.index(b"00:00:00", content.index(b"DURATION"))
    changed = content[:at] + duration.ljust(18) + content[at + 18 :]
    assert targets._read_video(changed, tmp_path) == targets._read_video(content, tmp_path)


def test_a_title_in_another_encoding(tmp_path: Path) -> None:
    content = targets._videos()[0]
    at = content.index(b"Lavf")  # of the encoder, among the tags
    assert len(targets._read_video(content[:at] + b"\xf8\xf8" + content[at + 2 :], tmp_path)) == 4  # type: ignore[arg-type]


# ---- Checkpoints.
@pytest.mark.parametrize("name", [LONG, "a\nb", "x" * 250])
def test_the_name_of_a_file_of_a_checkpoint_is_short(name: str, tmp_path: Path) -> None:
    target = targets.TARGETS["manifest.json"]
    (content,) = target.seeds()
    manifest = json.loads(content)
    manifest["files"][name] = {"sha256": "0", "bytes": 0}
    changed = json.dumps(manifest).encode()
    assert "manifest.json is damaged: it lists '" in refusal(lambda: target.read(changed, tmp_path))
