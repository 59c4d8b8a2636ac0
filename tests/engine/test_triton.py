"""The model repository for Triton: its configurations by Triton's own schema, its models in ONNX Runtime and Python.

No server of Triton runs here: its Python backend has a double, which hands the models what the server would.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cyclegan_fast.engine import infer, load_engine
from cyclegan_fast.engine.backends.sidecar import make_sidecar, sidecar_of
from cyclegan_fast.engine.export.triton_config import Word, text_of
from cyclegan_fast.engine.export.triton_repository import write_triton_repository
from cyclegan_fast.engine.generator import load_generator
from cyclegan_fast.errors import UserError
from cyclegan_fast.export import main
from tests.commands import run_in_process

pytest.importorskip("onnxruntime")
schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")

KINDS = {name: getattr(schema, name) for name in ("TYPE_FP32", "TYPE_STRING")}


def config(folder: Path) -> Any:
    """A model's configuration, parsed by Triton's schema: an unknown field or a wrong type is an error."""
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


@pytest.fixture(scope="module")
def plan(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands for a plan of TensorRT of the run "colour": Triton alone reads it."""
    path, generator = tmp_path_factory.mktemp("plan") / "colour.engine", load_generator(runs["colour"], "AtoB")
    from cyclegan_fast.engine.backends.sidecar import weights_digest

    metadata = generator.metadata() | {
        "in_channels": 3,
        "out_channels": 3,
        "size_divisor": generator.size_divisor,
        "min_size": generator.min_size,
        "precision": "fp16",
        "weights_sha256": weights_digest(generator.network),
        "compiled": {"device": "cuda", "flavour": "standard"},
        "shapes": {"min": [1, 256, 64], "opt": [4, 256, 256], "max": [16, 256, 1024]},
    }
    path.write_bytes(b"a plan")
    sidecar_of(path).write_bytes(make_sidecar(b"a plan", metadata))
    return path


@pytest.fixture(scope="module")
def repository(
    runs: dict[str, Path], photos: Path, plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("triton") / "models"
    written = write_triton_repository(runs["colour"], folder, direction="AtoB", images=photos, plan=plan, ensemble=True)
    name = written[0].name
    return {path.name.removeprefix(name) or "network": path for path in written}


def test_the_configuration_is_what_the_graph_takes(repository: dict[str, Path]) -> None:
    import onnx

    found, folder = config(repository["network"]), repository["network"]
    assert (found.name, found.platform, found.backend) == (folder.name, "onnxruntime_onnx", "onnxruntime")
    graph = onnx.load(folder / "1" / found.default_model_filename).graph
    for ports, stored in ((graph.input, found.input), (graph.output, found.output)):
        (port,), (tensor,) = ports, stored
        assert (port.name, port.type.tensor_type.elem_type) == (tensor.name, onnx.TensorProto.FLOAT)
        assert tensor.data_type == KINDS["TYPE_FP32"]
        sizes = [dim.dim_value or -1 for dim in port.type.tensor_type.shape.dim]
        assert sizes == [-1, *tensor.dims]
    assert found.max_batch_size == 8 and list(found.dynamic_batching.preferred_batch_size) == [4, 8]
    assert found.dynamic_batching.max_queue_delay_microseconds == 5000
    assert found.version_policy.latest.num_versions == 1
    assert [group.kind for group in found.instance_group] == [schema.ModelInstanceGroup.KIND_AUTO]
    assert [warmup.batch_size for warmup in found.model_warmup] == [1, 8]


def test_onnx_runtime_runs_what_the_configuration_says(repository: dict[str, Path], runs: dict[str, Path]) -> None:
    from cyclegan_fast.telemetry import telemetry_disabled

    with telemetry_disabled():
        import onnxruntime
    found = config(repository["network"])
    session = onnxruntime.InferenceSession(repository["network"] / "1" / "model.onnx")
    for warmup in found.model_warmup:
        ((name, given),) = warmup.inputs.items()
        images = np.zeros((warmup.batch_size, *given.dims), np.float32)
        (result,) = session.run([found.output[0].name], {name: images})
        assert result.shape == images.shape
    images = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 24)).astype(np.float32)
    (result,) = session.run([found.output[0].name], {found.input[0].name: images})
    with load_engine(runs["colour"], direction="AtoB", device="cpu") as engine:
        expected = infer(engine, images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_a_plan_is_a_model_within_its_shapes(repository: dict[str, Path], plan: Path) -> None:
    found = config(repository["_tensorrt"])
    assert (found.platform, found.backend, found.max_batch_size) == ("tensorrt_plan", "tensorrt", 16)
    assert list(found.input[0].dims) == list(found.output[0].dims) == [3, 256, -1]
    (group,) = found.instance_group
    assert group.kind == schema.ModelInstanceGroup.KIND_GPU and list(group.profile) == ["0", "1", "2"]
    (warmup,) = found.model_warmup
    assert (warmup.batch_size, list(warmup.inputs["image"].dims)) == (4, [3, 256, 256])
    assert (repository["_tensorrt"] / "1" / "model.plan").read_bytes() == plan.read_bytes()


def test_the_steps_of_the_ensemble_fit_together(repository: dict[str, Path]) -> None:
    ensemble = config(repository["_files"])
    assert ensemble.platform == "ensemble" and (repository["_files"] / "1").is_dir()
    kinds = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in ensemble.input}
    models = {path.name: config(path) for path in repository.values()}
    for step in ensemble.ensemble_scheduling.step:
        model = models[step.model_name]
        assert model.max_batch_size >= ensemble.max_batch_size
        for tensor in model.input:
            assert kinds[step.input_map[tensor.name]] == (tensor.data_type, list(tensor.dims)), tensor.name
        assert set(step.input_map) == {tensor.name for tensor in model.input}
        assert set(step.output_map) == {tensor.name for tensor in model.output}
        kinds |= {step.output_map[t.name]: (t.data_type, list(t.dims)) for t in model.output}
    for tensor in ensemble.output:
        assert kinds[tensor.name] == (tensor.data_type, list(tensor.dims))


# ---- The ensemble, by a double of Triton's Python backend.
class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> np.ndarray:
        return self._array


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor  # type: ignore[attr-defined]
    module.TritonError = lambda message: SimpleNamespace(message=lambda: message)  # type: ignore[attr-defined]
    module.InferenceResponse = lambda output_tensors, error=None: SimpleNamespace(  # type: ignore[attr-defined]
        output_tensors=output_tensors, error=error
    )
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)


def python_model(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location(folder.name, folder / "1" / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model, found = module.TritonPythonModel(), config(folder)
    parameters = {key: {"string_value": value.string_value} for key, value in found.parameters.items()}
    model.initialize({"model_name": found.name, "model_config": json.dumps({"parameters": parameters})})
    return model


def through(repository: dict[str, Path], content: bytes) -> Any:
    """What the ensemble makes of a file: its last response, or the first with an error."""
    import onnxruntime

    ensemble = config(repository["_files"])
    values: dict[str, np.ndarray] = {"file": np.array([[content]], np.object_)}
    response = None
    for step in ensemble.ensemble_scheduling.step:
        given = {name: values[key] for name, key in step.input_map.items()}
        if step.model_name == repository["network"].name:
            session = onnxruntime.InferenceSession(repository["network"] / "1" / "model.onnx")
            outputs = dict(zip(["translated"], session.run(["translated"], given), strict=True))
        else:
            (response,) = python_model(repository["network"].with_name(step.model_name)).execute([given])
            if response.error is not None:
                return response
            outputs = {tensor.name: tensor.as_numpy() for tensor in response.output_tensors}
        values |= {key: outputs[name] for name, key in step.output_map.items()}
    return response


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_the_ensemble_translates_files_as_infer_does(backend: None, repository: dict[str, Path], kind: str) -> None:
    pixels, file = np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    response = through(repository, file.getvalue())
    (tensor,) = response.output_tensors
    content = tensor.as_numpy().reshape(-1)[0]
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == (kind, (67, 45))
        translated = np.array(image).astype(int)
    with load_engine(repository["network"] / "1" / "model.onnx") as engine:
        expected = infer(engine, file.getvalue())
    if kind == "JPEG":
        stored = io.BytesIO()
        expected.save(stored, kind, quality=95)
        expected = Image.open(stored)
    assert np.array_equal(translated, np.array(expected))


def test_what_is_no_image_is_an_error_of_its_own(backend: None, repository: dict[str, Path]) -> None:
    response = through(repository, b"no image")
    assert response.error.message().startswith("the image: not an image in a known format")


# ---- The command, and what it refuses.
def test_the_command(runs: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    words = ["--checkpoint", runs["colour"], "--direction", "AtoB", "--triton-repository", tmp_path / "models"]
    words += ["--images", photos]
    done = run_in_process(lambda: main([str(word) for word in words]))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'models'}: {runs['colour'].name}\n")
    again = run_in_process(lambda: main([str(word) for word in words]))
    assert again.returncode == 2 and "exists already: remove it, or name another repository" in again.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "--out is missing"),
        ("--out x.onnx --triton-ensemble", "are about a repository"),
        ("--triton-repository m --out x.onnx", "--triton-repository writes ONNX: leave out --out"),
        ("--triton-repository m --device cpu", "leave out --out, --shapes, --device"),
    ],
)
def test_flags_that_do_not_go_together(words: str, sentence: str) -> None:
    done = run_in_process(lambda: main(["--checkpoint", "nowhere", *words.split()]))
    assert done.returncode == 2 and sentence in done.stderr


def test_a_plan_that_does_not_fit_is_refused(runs: dict[str, Path], plan: Path, tmp_path: Path) -> None:
    metadata = json.loads(sidecar_of(plan).read_text())
    other = tmp_path / "other.engine"
    other.write_bytes(plan.read_bytes())
    for change, sentence in (
        ({"compiled": {"device": "cuda", "flavour": "rtx"}}, "is for TensorRT for RTX, which Triton does not run"),
        ({"weights_sha256": "0"}, "holds other weights than the checkpoint"),
        ({"shapes": {"min": [2, 8, 8], "opt": [2, 8, 8], "max": [2, 8, 8]}}, "takes no single image"),
    ):
        sidecar_of(other).write_text(json.dumps(metadata | change))
        with pytest.raises(UserError, match=sentence):
            write_triton_repository(runs["colour"], tmp_path / "models", direction="AtoB", plan=other)
    for path, sentence in ((tmp_path / "x.engine", "No such file"), (runs["colour"], "give an .engine file")):
        with pytest.raises(UserError, match=sentence):
            write_triton_repository(runs["colour"], tmp_path / "models", direction="AtoB", plan=path)
    assert not (tmp_path / "models").exists()


def test_texts_are_quoted_as_protobuf_reads_them() -> None:
    from google.protobuf import text_format

    name = 'a "name"\n\\ with Umlauts äö'
    text = text_of({"name": name, "input": [{"name": "x", "data_type": Word("TYPE_FP32"), "dims": [3, -1]}]})
    found = text_format.Parse(text, schema.ModelConfig())
    assert found.name == name and list(found.input[0].dims) == [3, -1]
