"""What is fuzzed: sound files of each kind, and how the package reads such a file."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from cyclegan_fast.checkpoint import native
from cyclegan_fast.checkpoint.reference_format import load_reference_generator, to_reference
from cyclegan_fast.config import ModelConfig, PixelFormat, TrainConfig
from cyclegan_fast.data.catalog.probe import inspect
from cyclegan_fast.data.locations.shards import read_shard
from cyclegan_fast.data.unpack import unpack
from cyclegan_fast.engine.backends.onnx_file import embed_metadata, parse_onnx
from cyclegan_fast.engine.backends.sidecar import make_sidecar, read_sidecar
from cyclegan_fast.engine.generator import Generator, dump_safetensors, load_generator
from cyclegan_fast.engine.translation.video_reader import VideoReader, open_video
from cyclegan_fast.errors import UserError
from cyclegan_fast.images import high_bit_depth
from cyclegan_fast.images.decode import read, read_unscaled
from cyclegan_fast.images.in_memory import EncodedImage
from cyclegan_fast.images.jpeg_damage import find_damage
from cyclegan_fast.images.metadata import KEEP, Change, carry_over, metadata_for
from cyclegan_fast.images.packages import why_missing
from cyclegan_fast.images.tiff_rows import TiffRows
from cyclegan_fast.nn import build_generator
from cyclegan_fast.train import resolve
from tests.fuzz.mutations import Repair, with_png_checksums, with_tar_checksums
from tests.images.tiff_writer import tiff

Read = Callable[[bytes, Path], object]
MODEL = ModelConfig(generator="resnet_1blocks", ngf=2, ndf=2)
_FRAMES = 50  # of a video, which is read as a stream


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    seeds: Callable[[], Sequence[bytes]]
    """Sound files."""
    read: Read
    """Reads the content of one, which may be put into a folder of its own; ends in a value or a UserError."""
    repair: Repair = bytes
    """Makes the checksums right after a change."""


# ---- Images.
def _pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _jpegs() -> list[bytes]:
    colour, grey = Image.fromarray(_pixels(24, 40, 3)), Image.fromarray(_pixels(17, 23))
    return [
        _saved(colour, "JPEG", exif=_exif()),
        _saved(colour, "JPEG", progressive=True, quality=95, subsampling=0),
        _saved(grey, "JPEG", restart_marker_blocks=1),
        _saved(colour.convert("CMYK"), "JPEG"),
    ]


def _pngs() -> list[bytes]:
    colour, text = Image.fromarray(_pixels(12, 20, 3)), PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 600, zip=True)
    text.add_itxt("title", "y" * 600, "en", "titel", zip=True)
    grey16 = Image.fromarray(_pixels(9, 11).astype(np.uint16) * 257)
    pngs = [
        _saved(colour, "PNG", pnginfo=text, exif=_exif()),
        _saved(colour.convert("P"), "PNG", transparency=3),
        _saved(colour.convert("RGBA"), "PNG"),
        _saved(colour.convert("1"), "PNG", transparency=0),
        _saved(grey16, "PNG"),
        _saved(colour, "PNG", save_all=True, append_images=[colour.rotate(90)]),
    ]
    if not why_missing("imagecodecs"):
        pngs.append(high_bit_depth.encode_png(_pixels(8, 9, 3).astype(np.uint16) * 257))
    return pngs


def _tiffs() -> list[bytes]:
    grey, colour = _pixels(13, 17, 1), _pixels(13, 17, 3)
    return [
        _saved(Image.fromarray(colour), "TIFF"),
        _saved(Image.fromarray(colour), "TIFF", compression="tiff_lzw"),
        _saved(Image.fromarray(colour), "TIFF", compression="jpeg"),
        tiff(grey, 8, "white", big_endian=True),
        tiff(colour.astype(np.uint16) * 257, 16, "rgb", deflate=True, rows_per_strip=4),
        tiff(colour.astype(np.float32), 32, "rgb", kind="float", tile=16),
        tiff(np.concatenate([colour, grey], axis=2), 8, "rgb", extras=("straight",), planar=True, orientation=5),
        tiff(grey >> 4, 4, "palette", colours=_pixels(16, 3).astype(np.uint16) * 257, pages=2),
    ]


def _ppms() -> list[bytes]:
    colour = _pixels(6, 7, 3)
    plain = b"P3 # comment\n2 2 1023\n" + b" ".join(b"%d" % n for n in range(12))
    grey, bits = Image.fromarray(colour[..., 0]), Image.fromarray(colour[..., 0]).convert("1")
    sixteen = high_bit_depth.encode_ppm(colour.astype(np.uint16) * 257)
    return [_saved(Image.fromarray(colour), "PPM"), plain, sixteen, _saved(grey, "PPM"), _saved(bits, "PPM")]


def _webps() -> list[bytes]:
    colour = Image.fromarray(_pixels(16, 20, 3))
    animated = {"save_all": True, "append_images": [colour.rotate(90)]}
    return [
        _saved(colour, "WEBP", exif=_exif()),
        _saved(colour.convert("RGBA"), "WEBP", lossless=True),
        _saved(colour, "WEBP", **animated),
    ]


def _bmps() -> list[bytes]:
    colour = Image.fromarray(_pixels(10, 9, 3))
    rle = b"BM" + (1078 + 12).to_bytes(4, "little") + bytes(4) + (1078).to_bytes(4, "little")
    header = b"".join(n.to_bytes(4, "little") for n in (40, 4, 2)) + b"\1\0\x08\0"
    header += b"".join(n.to_bytes(4, "little") for n in (1, 12, 0, 0, 256, 0))
    rle += header + bytes(range(256)) * 4 + b"\4\1\0\0\2\5\2\6\0\0\0\1"
    return [_saved(colour, "BMP"), _saved(colour.convert("P"), "BMP"), _saved(colour.convert("1"), "BMP"), rle]


def _gifs() -> list[bytes]:
    colour = Image.fromarray(_pixels(10, 9, 3)).convert("P")
    many = {"save_all": True, "append_images": [colour.rotate(90), colour]}
    return [_saved(colour, "GIF", transparency=0), _saved(colour, "GIF", **many, interlace=1)]


def _read_image(content: bytes, folder: Path) -> object:
    """As the check before a training, the loaders, and `infer` do; each must end well by itself."""
    image = EncodedImage("image", content=content)
    steps = (lambda: inspect(image), lambda: read(image, PixelFormat()), lambda: read_unscaled(image, 1))
    return [_outcome(step) for step in steps]


def _read_tiff(content: bytes, folder: Path) -> object:
    """By rows, too, as `translate` reads large ones."""
    path = folder / "image.tif"
    path.write_bytes(content)

    def by_rows() -> object:
        rows = TiffRows(path, 3)
        try:
            return [rows.pixels(low, min(low + 5, rows.height)) for low in range(0, min(rows.height, 20), 5)]
        finally:
            rows.close()

    return [_read_image(content, folder), _outcome(by_rows)]


def _scan_jpeg(content: bytes, folder: Path) -> object:
    reason = find_damage(content)
    assert reason is None or (len(reason) < 200 and "\n" not in reason)
    return reason


def _with_metadata() -> list[bytes]:
    """Images of every format that can hold some: EXIF with a place, a profile, XMP, IPTC, texts, a georeference."""
    image, text = Image.fromarray(_pixels(12, 16, 3)), PngImagePlugin.PngInfo()
    exif = _exif()
    exif[0x010E], exif[0x011A] = "a title", 300.0
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 1.5)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><d tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    text.add_text("Title", "a title")
    text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    resource = b"\x1c\x02\x05\0\x05title"
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(resource).to_bytes(4, "big") + resource
    jpeg = _saved(image, "JPEG", exif=exif, icc_profile=profile, comment=b"a comment", dpi=(300, 150), xmp=xmp)
    jpeg = jpeg[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block + jpeg[2:]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550], tags[33922] = (2.0, 3.0, 0.0), (0.0, 0.0, 0.0, 5e5, 4e6, 0.0)
    tags[34735], tags[700] = (1, 1, 0, 1, 1024, 0, 1, 1), xmp
    tags[42112] = "<GDALMetadata><Item>x</Item></GDALMetadata>"
    tags.tagtype[33550] = tags.tagtype[33922] = 12
    tags.tagtype[34735], tags.tagtype[700] = 3, 1
    return [
        jpeg,
        _saved(image, "PNG", exif=exif, icc_profile=profile, pnginfo=text, dpi=(300, 150)),
        _saved(image, "TIFF", tiffinfo=tags, icc_profile=profile, dpi=(300, 150)),
        _saved(image, "WEBP", exif=exif, icc_profile=profile, xmp=xmp),
        _saved(image, "BMP", dpi=(300, 150)),
        _saved(image.convert("P"), "GIF", comment=b"a comment"),
    ]


def _carry_metadata(content: bytes, folder: Path) -> object:
    """Into results of every format, whose pixels stay what they are."""
    (folder / "input").write_bytes(content)
    found = []
    for kind, result in _results().items():
        metadata = metadata_for(folder / "input", KEEP)
        carried = carry_over(result, kind, metadata, Change((16, 12), (16, 12), 3), KEEP)
        pixels = read(EncodedImage(kind, content=carried), PixelFormat())
        assert np.array_equal(pixels, read(EncodedImage(kind, content=result), PixelFormat())), f"another {kind}"
        found.append(metadata.left_out)
    return found


@functools.cache
def _results() -> dict[str, bytes]:
    image = Image.fromarray(_pixels(12, 16, 3))
    return {kind: _saved(image, kind) for kind in ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")}


# ---- Many images, settings, networks.
def _tars() -> list[bytes]:
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, content in (("a/1.png", _pngs()[0]), (f"{'ä' * 60}/2.jpg", _jpegs()[2]), ("notes.txt", b"x")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        found.append(buffer.getvalue())
    return found


def _read_shard(content: bytes, folder: Path) -> object:
    path = folder / "a.tar"
    path.write_bytes(content)
    images, _ = read_shard(str(path))
    return [_outcome(lambda image=image: read(image, PixelFormat())) for image in images[:10]]


def _archives() -> list[bytes]:
    """Archives of a data set."""
    members = {f"set/{folder}/{i}.png": _pngs()[0] for folder in ("trainA", "trainB") for i in range(2)}
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with tarfile.open(fileobj=tarred, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return [zipped.getvalue(), tarred.getvalue(), gzip.decompress(tarred.getvalue())]


def _unpack(content: bytes, folder: Path) -> object:
    (folder / "set.zip").write_bytes(content)
    return unpack(folder / "set.zip", folder / "set")


def _configs() -> list[bytes]:
    merged = b"optim: {<<: &a {lr: 1}, beta1: 0.5}\nmodel: {<<: {ngf: 8}}\nrun: {amp: bf16, seed: 0x10}\n"
    typed = b"\xef\xbb\xbf%YAML 1.1\n---\ndata: !!map\n  value_low: -1.0\n  value_high: 1e3\n  depth: float\n...\n"
    return [
        b"model: {generator: resnet_6blocks, ngf: 32}\noptim:\n  lr: 2.0e-4\n  n_epochs: 3\nrun:\n  out: runs/a\n",
        merged + b"data: {data_A: [x, 'y'], flip: no}",
        typed,
    ]


def _read_config(content: bytes, folder: Path) -> object:
    path = folder / "config.yaml"
    path.write_bytes(content)
    return resolve(path, {})


def _generator() -> Generator:
    torch.manual_seed(0)
    return Generator(build_generator(MODEL).eval(), MODEL, "AtoB", PixelFormat(), PixelFormat())


class _Checkpoint:
    """A file of a checkpoint, whose manifest lists what it holds."""

    def __init__(self, name: str, read: Callable[[Path], object]) -> None:
        self.name, self.read = name, read
        self.files: dict[str, bytes] = {}

    def seeds(self) -> list[bytes]:
        torch.manual_seed(0)
        networks = {"G_A": build_generator(MODEL), "G_B": build_generator(MODEL, "BtoA")}
        moments = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
        state = {"step": {"moments": [moments, (1, None, float("inf"))], "pool": torch.arange(5)}}
        with tempfile.TemporaryDirectory() as folder:
            config = TrainConfig(model=MODEL)
            path = native.save_checkpoint(
                Path(folder), 7, networks=networks, config=config, progress={"epoch": 1}, state=state
            )
            self.files = {file.name: file.read_bytes() for file in path.iterdir()}
        return [self.files[self.name]]

    def __call__(self, content: bytes, folder: Path) -> object:
        for name, sound in self.files.items():
            (folder / name).write_bytes(sound)
        (folder / self.name).write_bytes(content)
        if self.name != "manifest.json":
            manifest = json.loads(self.files["manifest.json"])
            manifest["files"][self.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        return self.read(folder)


def _checkpoint(name: str, read: Callable[[Path], object]) -> Target:
    checkpoint = _Checkpoint(name, read)
    return Target(checkpoint.seeds, checkpoint)


def _exported() -> list[bytes]:
    from safetensors.torch import load, save

    whole = dump_safetensors(_generator())
    metadata = {"cyclegan_fast": json.dumps(_generator().metadata())}
    return [whole, save(load(whole), metadata)]  # the second without a digest, as earlier versions wrote it


def _read_exported(content: bytes, folder: Path) -> object:
    path = folder / "g.safetensors"
    path.write_bytes(content)
    return load_generator(path)


def _references() -> list[bytes]:
    found = []
    for as_archive in (True, False):
        buffer = io.BytesIO()
        torch.save(to_reference(_generator().network), buffer, _use_new_zipfile_serialization=as_archive)
        found.append(buffer.getvalue())
    return found


def _read_reference(content: bytes, folder: Path) -> object:
    path = folder / "latest_net_G_A.pth"
    path.write_bytes(content)
    return load_reference_generator(path)


def _engine_metadata() -> dict[str, Any]:
    shapes = {"min": [1, 64, 64], "opt": [1, 256, 256], "max": [8, 512, 512]}
    compiled = {"device": "cpu", "torch": "2.13", "machine": "x86_64"}
    facts = {"size_divisor": 4, "min_size": 16, "precision": "fp32", "shapes": shapes, "compiled": compiled}
    return _generator().metadata() | facts


def _read_sidecar(content: bytes, folder: Path) -> object:
    path = folder / "g.engine"
    path.with_name("g.engine.json").write_bytes(content)
    return read_sidecar(path, b"")


def _graphs() -> list[bytes]:
    """One of ours; one of another maker, whose output's shape is inferred; one whose weights lie beside it."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((3, 3, 1, 1), np.float32), "weight")
    beside = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=(3, 3, 1, 1))
    beside.data_location = TensorProto.EXTERNAL
    beside.external_data.add(key="location", value="weights.bin")
    node = helper.make_node("Conv", ["image", "weight"], ["result"], kernel_shape=[1, 1])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, ["n", 3, "h", "w"])
    unknown = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    known, inferred, outside = (
        helper.make_model(helper.make_graph([node], "g", [image], [output], [tensor])).SerializeToString()
        for output, tensor in ((result, weight), (unknown, weight), (result, beside))
    )
    return [embed_metadata(known, _engine_metadata()), inferred, outside]


def _read_graph(content: bytes, folder: Path) -> object:
    (folder / "weights.bin").write_bytes(bytes(36))
    return parse_onnx(content, "g.onnx", folder=folder)


# ---- Videos.
def _videos() -> list[bytes]:
    import av

    found = []
    for container_format, codec in (("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mjpeg")):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format=container_format) as container:
            stream = container.add_stream(codec, rate=Fraction(10))
            stream.width, stream.height = 32, 24
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for seed in range(4):
                pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        found.append(buffer.getvalue())
    return found


def _read_video(content: bytes, folder: Path) -> object:
    path = folder / "video.mp4"
    path.write_bytes(content)
    with open_video(path) as container:
        reader = VideoReader(container, path, 3)
        frames = reader.frames()
        return [frame.pts for frame, _ in zip(frames, range(_FRAMES), strict=False)]


class Refusal(str):
    """The sentence with which a file was refused."""


def check_refusal(error: Exception) -> Refusal:
    """The sentence that an error is.

    Raises:
        AssertionError: It is none.
        Exception: The error itself, where it is none for users.
    """
    if not isinstance(error, UserError):
        raise error
    sentence = str(error)
    assert sentence and "\n" not in sentence, f"no sentence: {sentence!r}"
    assert len(sentence) < 1000, f"a sentence of {len(sentence)} characters: {sentence[:300]}"
    return Refusal(sentence)


def is_refused(outcome: object) -> bool:
    """Whether a file was refused, by all steps if there were several."""
    if isinstance(outcome, list):
        return len(outcome) > 0 and all(map(is_refused, outcome))
    return isinstance(outcome, Refusal)


def _outcome(step: Callable[[], object]) -> object:
    """The value, or the refusal, so that the next step is tried as well."""
    try:
        return step()
    except ValueError as error:
        return check_refusal(error)


TARGETS = {
    "jpeg": Target(_jpegs, _read_image),
    "jpeg scanner": Target(_jpegs, _scan_jpeg),
    "png": Target(_pngs, _read_image),
    "png with checksums": Target(_pngs, _read_image, with_png_checksums),
    "tiff": Target(_tiffs, _read_tiff),
    "ppm": Target(_ppms, _read_image),
    "webp": Target(_webps, _read_image),
    "bmp": Target(_bmps, _read_image),
    "gif": Target(_gifs, _read_image),
    "metadata": Target(_with_metadata, _carry_metadata),
    "png metadata with checksums": Target(lambda: _with_metadata()[1:2], _carry_metadata, with_png_checksums),
    "tar": Target(_tars, _read_shard),
    "tar with checksums": Target(_tars, _read_shard, with_tar_checksums),
    "archive of a set": Target(_archives, _unpack),
    "archive of a set with checksums": Target(lambda: _archives()[2:], _unpack, with_tar_checksums),
    "config.yaml": Target(_configs, _read_config),
    "manifest.json": _checkpoint("manifest.json", native.verify),
    "settings.json": _checkpoint("settings.json", native.load_generators),
    "state.json": _checkpoint("state.json", native.load_state),
    "weights.safetensors": _checkpoint("weights.safetensors", native.load_generators),
    "state.safetensors": _checkpoint("state.safetensors", native.load_state),
    "exported safetensors": Target(_exported, _read_exported),
    "reference pth": Target(_references, _read_reference),
    "sidecar": Target(lambda: [make_sidecar(b"", _engine_metadata())], _read_sidecar),
    "onnx": Target(_graphs, _read_graph),
    "video": Target(_videos, _read_video),
}
