"""Checkpoints come back bit for bit, and no crash, full disk or flipped bit goes unnoticed."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cyclegan_fast.checkpoint import native
from cyclegan_fast.checkpoint.retention import Retention
from cyclegan_fast.config import ModelConfig, TrainConfig, to_dict
from cyclegan_fast.errors import UserError
from cyclegan_fast.files import building_folder
from cyclegan_fast.nn import build_networks
from tests.checkpoint.saving import CONFIG, save_for_ever


@pytest.fixture
def save(networks, config):
    """save(folder, step, **options): a checkpoint whose training state holds its step."""

    def call(folder, step, keep=0, state="default"):
        state = {"step": step, "moments": torch.randn(3, 5)} if state == "default" else state
        progress = {"step": step, "epoch": 2}
        return native.save_checkpoint(
            folder, step, networks=networks, config=config, progress=progress, state=state, keep=Retention(newest=keep)
        )

    return call


def flip_bit(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 0x10
    path.write_bytes(content)


def test_weights_come_back_bit_for_bit_in_the_layout_that_is_there(tmp_path, networks, config, save):
    checkpoint = save(tmp_path / "checkpoints", 12)
    other = build_networks(config.model).to(memory_format=torch.channels_last)
    native.load_weights(checkpoint, other)
    expected = networks.state_dict()
    assert expected.keys() == other.state_dict().keys()
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert other["G_A"].stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_weights_are_stored_as_nchw(tmp_path, networks, config):
    expected = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    networks.to(memory_format=torch.channels_last)
    checkpoint = native.save_checkpoint(tmp_path, 1, networks=networks, config=config, progress={})
    stored = load_file(checkpoint / "weights.safetensors")
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) and stored[name].is_contiguous() for name in stored)


def test_settings_and_progress_travel_with_the_weights(tmp_path, save, config):
    save(tmp_path / "checkpoints", 12)
    settings = native.read_settings(tmp_path)
    assert to_dict(settings.config) == to_dict(config)
    assert settings.progress == {"step": 12, "epoch": 2}
    assert settings.versions["torch"] == torch.__version__


def test_generators_are_rebuilt_from_the_folder_alone(tmp_path, save, networks):
    save(tmp_path / "checkpoints", 3)
    rng = torch.get_rng_state()
    loaded, settings = native.load_generators(tmp_path)
    assert torch.equal(rng, torch.get_rng_state())
    for name, channels in (("G_A", 1), ("G_B", 3)):
        x = torch.randn(2, channels, 16, 20)
        with torch.no_grad():
            assert torch.equal(loaded[name](x), networks[name].eval()(x))
        assert not loaded[name].training
        assert not any(p.requires_grad for p in loaded[name].parameters())
    assert settings.config.model.generator == "resnet_2blocks"


def test_batch_norm_statistics_are_stored(tmp_path):
    config = TrainConfig(model=ModelConfig(generator="resnet_1blocks", ngf=4, ndf=4, norm="batch"))
    networks = build_networks(config.model)
    networks["G_A"](torch.randn(2, 3, 16, 16))
    native.save_checkpoint(tmp_path, 1, networks=networks, config=config, progress={})
    loaded = native.load_generators(tmp_path)[0]["G_A"]
    assert loaded.stem_norm.norm.num_batches_tracked == 1
    assert torch.equal(loaded.stem_norm.norm.running_var, networks["G_A"].stem_norm.norm.running_var)


def test_every_path_that_names_a_checkpoint(tmp_path, save):
    run = tmp_path / "run"
    assert native.latest_checkpoint(run) is None
    run.mkdir()
    assert native.latest_checkpoint(run) is None
    first, newest = save(run / "checkpoints", 900), save(run / "checkpoints", 1200)
    assert newest.name == "step_00001200"
    for path in (run, run / "checkpoints", newest, str(run)):
        assert native.latest_checkpoint(path) == newest
    assert native.latest_checkpoint(first) == first
    best = first.rename(run / "best")
    assert native.latest_checkpoint(best) == best
    native.verify(best)


def test_steps_are_ordered_as_numbers(tmp_path, save):
    save(tmp_path, 99_999_999)
    newest = save(tmp_path, 100_000_000)
    assert native.latest_checkpoint(tmp_path) == newest


@pytest.mark.parametrize(("keep", "left"), [(0, [1, 2, 3, 4]), (1, [4]), (2, [3, 4])])
def test_only_the_newest_are_kept(tmp_path, save, keep, left):
    for step in range(1, 5):
        save(tmp_path, step, keep=keep)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"step_{step:08d}" for step in left]


def test_saving_a_step_again_replaces_it_without_a_moment_without_it(tmp_path, save):
    first = save(tmp_path, 5, keep=1, state={"try": 1})
    second = save(tmp_path, 5, keep=1, state={"try": 2})
    third = save(tmp_path, 5, keep=0, state={"try": 3})
    assert not first.exists() and not second.exists()
    assert native.latest_checkpoint(tmp_path) == third
    assert native.load_state(third) == {"try": 3}


def test_no_state_is_an_error(tmp_path, save):
    with pytest.raises(UserError, match=r"no training state.*--init-from"):
        native.load_state(save(tmp_path, 1, state=None))


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint here"):
        native.read_settings(tmp_path / "nowhere")


def test_weights_of_another_architecture_are_refused_untouched(tmp_path, save):
    checkpoint = save(tmp_path, 1)
    other = build_networks(ModelConfig(generator="resnet_3blocks", ngf=4, ndf=4, channels_A=1))
    before = {name: tensor.clone() for name, tensor in other["G_A"].state_dict().items()}
    with pytest.raises(UserError, match=r"G_A does not fit the network: blocks\.2\.conv1\.weight is missing"):
        native.load_weights(checkpoint, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in other["G_A"].state_dict().items())


FILES = ["weights.safetensors", "settings.json", "state.safetensors", "state.json", "manifest.json"]


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncate", "empty", "flip", "remove"])
def test_damage_is_found_and_the_checkpoint_before_is_offered(tmp_path, save, name, damage, user_sees):
    whole, worse, last = (save(tmp_path, step) for step in (1, 2, 3))
    (worse / "state.json").unlink()
    victim = last / name
    if damage == "truncate":
        os.truncate(victim, victim.stat().st_size - 7)
    elif damage == "empty":
        os.truncate(victim, 0)
    elif damage == "remove":
        victim.unlink()
    else:
        flip_bit(victim, 0.9)
    with pytest.raises(UserError) as caught:
        native.verify(last)
    message = str(caught.value)
    user_sees(message)
    assert str(last) in message and f"go on from {whole}" in message
    if name != "manifest.json":
        assert name in message


@pytest.mark.fault(15)
@pytest.mark.parametrize("where", [0.0, 0.002, 0.3, 0.999, 1.0])
def test_a_flipped_bit_is_found_by_every_reader(tmp_path, save, networks, where, user_sees):
    only = save(tmp_path, 1)
    for name, read in {
        "weights.safetensors": lambda: native.load_weights(only, networks),
        "state.safetensors": lambda: native.load_state(only),
        "settings.json": lambda: native.read_settings(only),
    }.items():
        flip_bit(only / name, where)
        with pytest.raises(UserError, match=rf"{name} is damaged: its sha256.*no whole checkpoint before it") as error:
            read()
        user_sees(error.value)


def test_a_newer_format_is_refused(tmp_path, save):
    checkpoint = save(tmp_path, 1)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(UserError, match="newer cyclegan_fast"):
        native.read_settings(checkpoint)


@pytest.mark.fault(13)
@pytest.mark.slow
@pytest.mark.parametrize("in_background", [False, True])
def test_sigkill_at_random_moments_never_costs_a_finished_checkpoint(tmp_path, in_background):
    networks = build_networks(CONFIG.model)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([save_for_ever.__module__])  # torch is imported once
    next_step, interrupted, kills = 1, 0, 0
    while kills < 20 or not interrupted:
        assert kills < 100, "no kill hit a save: the test has lost its aim"
        saved, sender = processes.Pipe(duplex=False)
        process = processes.Process(
            target=save_for_ever, args=(tmp_path, next_step, sender, in_background), daemon=True
        )
        process.start()
        sender.close()
        steps = [saved.recv()]  # it is saving in a loop now
        time.sleep(random.uniform(0.0, 0.1))
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                steps.append(saved.recv())
        kills += 1
        interrupted += any(tmp_path.glob(".partial-*"))

        newest = native.latest_checkpoint(tmp_path)
        native.verify(newest)
        step = native.read_settings(newest).progress["step"]
        assert step >= max(steps)
        native.load_weights(newest, networks)
        assert all((p == step).all() for p in networks.parameters())
        assert (native.load_state(newest)["step"] == step).all()
        next_step = step + 1
    native.save_checkpoint(tmp_path, next_step, networks=networks, config=CONFIG, progress={}, keep=Retention(newest=2))
    assert len(list(tmp_path.iterdir())) == 2, "what the dead left behind is still there"


def test_a_lock_that_outlived_its_folder_is_removed(tmp_path, save):
    (tmp_path / ".partial-0123456789ab.lock").touch()  # killed between the move into place and the lock's removal
    save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_what_a_living_process_writes_is_left_alone(tmp_path, save):
    with building_folder(tmp_path / "step_00000009") as partial:
        save(tmp_path, 1)
        assert partial.is_dir()
    assert native.latest_checkpoint(tmp_path).name == "step_00000009"


def assert_refused_and_intact(folder, save, reason, user_sees):
    before = native.latest_checkpoint(folder)
    with pytest.raises(UserError, match=rf"step 2 in .*earlier ones are intact.*: {reason}") as error:
        save(folder, 2, state={"big": torch.zeros(1_000_000)})
    user_sees(error.value)
    native.verify(before)
    assert [p.name for p in folder.iterdir()] == [before.name]


@pytest.mark.fault(14)
def test_a_full_disk(tmp_path, save, user_sees):
    folder = tmp_path / "small"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mount.stderr.strip()}")
    try:
        save(folder, 1)
        assert_refused_and_intact(folder, save, "No space left on device", user_sees)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.fault(14)
def test_a_file_size_limit(tmp_path, save, user_sees):
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        assert_refused_and_intact(tmp_path, save, "File too large", user_sees)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.fault(14)
def test_a_read_only_folder(save, user_sees):
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        save(folder, 1)
        Path(parent).chmod(0o755)
        folder.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:  # root writes whatever the mode says, so the saving is done as nobody
            os.seteuid(65534)
        try:
            assert_refused_and_intact(folder, save, "Permission denied", user_sees)
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)
