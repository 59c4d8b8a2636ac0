"""The reference's .pth files: read and written, every network it has, its settings inferred, and never trusted."""

import collections
import os
import random
import zipfile

import pytest
import torch

from cyclegan_fast.checkpoint import native, reference_format
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.errors import UserError
from cyclegan_fast.nn import build_discriminator, build_generator, build_networks
from tests.plain.networks import (
    PlainNLayerDiscriminator,
    PlainPixelDiscriminator,
    PlainResnetGenerator,
    PlainUnetGenerator,
)

NORMS = ["instance", "batch", "none"]


def plain_generator(config):
    kind, size = config.generator.removesuffix("blocks").split("_")
    rest = {"ngf": config.ngf, "norm": config.norm, "dropout": config.dropout}
    if kind == "resnet":
        return PlainResnetGenerator(config.channels_A, config.channels_B, n_blocks=int(size), **rest)
    return PlainUnetGenerator(config.channels_A, config.channels_B, num_downs=int(size).bit_length() - 1, **rest)


def assert_equal_tables(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("generator", ["resnet_1blocks", "resnet_6blocks", "resnet_9blocks", "unet_32", "unet_128"])
def test_generators_both_ways(tmp_path, generator, norm, dropout):
    config = ModelConfig(generator=generator, norm=norm, dropout=dropout, ngf=4, channels_A=1)
    plain = plain_generator(config)
    torch.save(plain.state_dict(), tmp_path / "latest_net_G.pth")
    ours, inferred = reference_format.load_reference_generator(tmp_path / "latest_net_G.pth")

    traced = config if generator.startswith("resnet") else ModelConfig(**{**vars(config), "dropout": False})
    assert inferred == traced
    side = max(16, ours.size_divisor)
    x = torch.randn(2, 1, side, side)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain.eval()(x), rtol=0, atol=2e-5)

    reference_format.save_reference_network(tmp_path / "again.pth", ours)
    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert_equal_tables(again, plain.state_dict())


def discriminators():
    for norm in NORMS:
        for name, n_layers in (("basic", 3), ("n_layers", 1), ("n_layers", 4), ("pixel", 3)):
            config = ModelConfig(discriminator=name, n_layers=n_layers, norm=norm, ndf=4)
            plain = (
                PlainPixelDiscriminator(3, 4, norm)
                if name == "pixel"
                else PlainNLayerDiscriminator(3, 4, n_layers, norm)
            )
            yield pytest.param(config, plain, id=f"{name}-{n_layers}-{norm}")


@pytest.mark.parametrize(("config", "plain"), list(discriminators()))
def test_discriminators_both_ways(config, plain):
    ours = build_discriminator(config, 3)
    ours.load_state_dict(reference_format.from_reference(ours, plain.state_dict()))
    assert_equal_tables(reference_format.to_reference(ours), plain.state_dict())


def test_the_keys_that_published_files_have():
    keys = reference_format.to_reference(build_generator(ModelConfig(ngf=4)))
    modules = ["model.1", "model.4", "model.7", "model.19", "model.22", "model.26"]
    modules += [f"model.{i}.conv_block.{j}" for i in range(10, 19) for j in (1, 5)]
    assert set(keys) == {f"{m}.{leaf}" for m in modules for leaf in ("weight", "bias")}
    assert len(keys) == 48
    six = reference_format.to_reference(build_generator(ModelConfig(generator="resnet_6blocks", ngf=4)))
    assert {"model.16.weight", "model.19.weight", "model.23.weight"} <= six.keys()
    dropped = reference_format.to_reference(build_generator(ModelConfig(ngf=4, dropout=True)))
    assert "model.10.conv_block.6.weight" in dropped and "model.10.conv_block.5.weight" not in dropped


def test_an_old_file_with_statistics_metadata_and_data_parallel(tmp_path, caplog):
    plain = PlainResnetGenerator(3, 3, 4, 2)
    old = collections.OrderedDict((f"module.{k}", v) for k, v in plain.state_dict().items())
    old._metadata = {"": {"version": 1}}
    for module in ("model.2", "model.10.conv_block.2"):
        old[f"module.{module}.running_mean"] = torch.randn(4)
        old[f"module.{module}.running_var"] = torch.rand(4)
        old[f"module.{module}.num_batches_tracked"] = torch.tensor(7)
    torch.save(old, tmp_path / "old.pth")
    ours, config = reference_format.load_reference_generator(tmp_path / "old.pth")
    assert "6 running statistics of instance norms are dropped" in caplog.text
    assert config.norm == "instance"
    assert_equal_tables(reference_format.to_reference(ours), plain.state_dict())


def test_the_file_format_before_torch_1_6(tmp_path):
    plain = PlainResnetGenerator(3, 3, 4, 1)
    torch.save(plain.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    ours, _ = reference_format.load_reference_generator(tmp_path / "old.pth")
    assert_equal_tables(reference_format.to_reference(ours), plain.state_dict())


def test_loading_draws_no_random_numbers_and_freezes(tmp_path):
    torch.save(PlainResnetGenerator(3, 3, 4, 1).state_dict(), tmp_path / "g.pth")
    rng = torch.get_rng_state()
    ours, _ = reference_format.load_reference_generator(tmp_path / "g.pth")
    assert torch.equal(rng, torch.get_rng_state())
    assert not ours.training and not any(p.requires_grad for p in ours.parameters())


SMALL = ModelConfig(generator="resnet_2blocks", ngf=4, ndf=4)


def test_a_folder_is_written_and_read(tmp_path, caplog):
    first, second = build_networks(SMALL), build_networks(SMALL)
    paths = reference_format.save_reference(tmp_path / "horse2zebra", first, "20")
    assert [p.name for p in paths] == ["20_net_G_A.pth", "20_net_G_B.pth", "20_net_D_A.pth", "20_net_D_B.pth"]
    reference_format.load_reference_folder(tmp_path / "horse2zebra", second, "20")
    assert not caplog.messages
    assert_equal_tables(first.state_dict(), second.state_dict())


def copy_of(networks):
    return {name: tensor.clone() for name, tensor in networks.state_dict().items()}


def test_a_missing_network_is_a_warning_and_keeps_its_weights(tmp_path, caplog):
    networks, other = build_networks(SMALL), build_networks(SMALL)
    reference_format.save_reference(tmp_path, networks)
    (tmp_path / "latest_net_D_B.pth").unlink()
    before = copy_of(other["D_B"])
    reference_format.load_reference_folder(tmp_path, other)
    assert "holds no D_B: fresh weights stay there" in caplog.text
    assert_equal_tables(before, other["D_B"].state_dict())
    assert_equal_tables(networks["G_B"].state_dict(), other["G_B"].state_dict())


@pytest.mark.parametrize("give", ["folder", "file"])
@pytest.mark.parametrize(("stored", "name", "fresh"), [("G", "G_A", "G_B, D_A, D_B"), ("G_B", "G_B", "G_A, D_A, D_B")])
def test_one_published_generator_is_enough(tmp_path, caplog, give, stored, name, fresh):
    trained, networks = build_networks(SMALL), build_networks(SMALL)
    path = tmp_path / f"latest_net_{stored}.pth"
    reference_format.save_reference_network(path, trained[name])
    before = copy_of(networks)
    reference_format.load_reference_folder(tmp_path if give == "folder" else path, networks)
    assert_equal_tables(trained[name].state_dict(), networks[name].state_dict())
    for other in fresh.split(", "):
        assert_equal_tables({k: before[f"{other}.{k}"] for k in networks[other].state_dict()}, copy_of(networks[other]))
    assert f"holds no {fresh}: fresh weights stay there" in caplog.text


def test_latest_is_taken_or_else_the_newest_number(tmp_path):
    saved = {epoch: build_networks(SMALL) for epoch in ("5", "200", "latest")}
    loaded = build_networks(SMALL)
    for epoch in saved:  # each is the right one as long as the next is not there
        reference_format.save_reference(tmp_path, saved[epoch], epoch)
        reference_format.load_reference_folder(tmp_path, loaded)
        assert_equal_tables(saved[epoch].state_dict(), loaded.state_dict())
    reference_format.load_reference_folder(tmp_path, loaded, "5")
    assert_equal_tables(saved["5"].state_dict(), loaded.state_dict())


def test_a_source_without_a_generator_is_refused(tmp_path):
    networks = build_networks(SMALL)
    discriminator = tmp_path / "latest_net_D_A.pth"
    reference_format.save_reference_network(discriminator, networks["D_A"])
    for source in (tmp_path, discriminator, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"neither a checkpoint of ours nor a file such as latest_net_G_A\.pth"):
            reference_format.load_reference_folder(source, networks)


def test_another_architecture_is_refused(tmp_path):
    reference_format.save_reference(tmp_path, build_networks(SMALL))
    other = build_networks(ModelConfig(generator="resnet_3blocks", ngf=4, ndf=4))
    with pytest.raises(UserError, match=r"latest_net_G_A\.pth does not fit the network"):
        reference_format.load_reference_folder(tmp_path, other)


class Malice:
    def __reduce__(self):
        return os.system, ('touch "$MALICE_MARK"',)


@pytest.mark.fault(16)
@pytest.mark.parametrize("new_format", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, monkeypatch, new_format, user_sees):
    mark = tmp_path / "it ran"
    monkeypatch.setenv("MALICE_MARK", str(mark))
    table = dict(PlainResnetGenerator(3, 3, 4, 1).state_dict()) | {"model.1.bias": Malice()}
    torch.save(table, tmp_path / "g.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(UserError, match=r"g\.pth is damaged or holds more than tensors.*refused") as error:
        reference_format.load_reference_generator(tmp_path / "g.pth")
    user_sees(error.value)
    assert not mark.exists()
    torch.load(tmp_path / "g.pth", weights_only=False)  # the pickle is a live one
    assert mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("new_format", [True, False])
def test_a_truncated_file_is_refused(tmp_path, share, new_format):
    path = tmp_path / "g.pth"
    torch.save(PlainResnetGenerator(3, 3, 4, 1).state_dict(), path, _use_new_zipfile_serialization=new_format)
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(UserError, match=r"g\.pth is damaged"):
        reference_format.load_reference_generator(path)


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_no_bit_of_a_file_flips_unseen(tmp_path):
    """At 200 random places, and in every part of the archive."""
    path, rng = tmp_path / "latest_net_G_A.pth", random.Random()
    plain = PlainResnetGenerator(3, 3, 4, 1)
    torch.save(plain.state_dict(), path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [part.header_offset for part in archive.infolist()]
    good, refused = reference_format.read_reference(path), 0
    for position in starts + [rng.randrange(len(content)) for _ in range(200)]:
        path.write_bytes(flipped(content, position, rng.randrange(8)))
        try:
            found = reference_format.read_reference(path)
        except UserError as error:
            assert "damaged" in str(error) or "it is refused" in str(error) or "bare state_dict" in str(error)
            refused += 1
        else:  # a date, or what fills the gaps between the parts
            assert found.keys() == good.keys() and all(found[name].equal(good[name]) for name in good)
    assert refused > 50


def test_a_flipped_weight_is_named(tmp_path):
    path = tmp_path / "g.pth"
    torch.save({"weight": torch.zeros(1000)}, path)
    content = path.read_bytes()
    path.write_bytes(flipped(content, content.index(bytes(3000)) + 1500, 6))
    with pytest.raises(UserError, match=r"g\.pth is damaged: the checksum of g/data/0 differs; copy the file again"):
        reference_format.read_reference(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path, compression):
    path, parts = tmp_path / "g.pth", tmp_path / "parts.zip"
    torch.save({"weight": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(parts, "w", compression) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
        if compression == zipfile.ZIP_STORED:  # all say that they are as large as all together
            for part in packed.infolist():
                part.file_size = part.compress_size = parts.stat().st_size
    with pytest.raises(
        UserError, match=r"parts\.zip (is an archive that torch\.save has not written: it is refused|is dam)"
    ):
        reference_format.read_reference(parts)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(2)], "not a bare state_dict"),
        ({"epoch": 3}, "not a bare state_dict"),
        ({"weight": torch.zeros(2)}, "not a generator of the reference"),
        (PlainNLayerDiscriminator(3, 4).state_dict(), "not a generator of the reference"),
        (PlainPixelDiscriminator(3, 4).state_dict(), "not a generator of the reference"),
        ({}, "not a generator of the reference"),
    ],
    ids=["list", "numbers", "other", "discriminator", "pixel", "empty"],
)
def test_what_is_no_generator_is_refused(tmp_path, content, reason):
    torch.save(content, tmp_path / "g.pth")
    with pytest.raises(UserError, match=reason):
        reference_format.load_reference_generator(tmp_path / "g.pth")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"g\.pth: No such file"):
        reference_format.load_reference_generator(tmp_path / "g.pth")


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "g.pth").write_text("not a model")
    with pytest.raises(UserError, match="is damaged"):
        reference_format.load_reference_generator(tmp_path / "g.pth")


def test_from_our_checkpoint_to_theirs_and_back(tmp_path):
    networks = build_networks(SMALL).to(memory_format=torch.channels_last)
    native.save_checkpoint(tmp_path, 1, networks=networks, config=TrainConfig(model=SMALL), progress={})
    generators, _ = native.load_generators(tmp_path)
    reference_format.save_reference_network(tmp_path / "g.pth", generators["G_B"])
    plain = PlainResnetGenerator(3, 3, 4, 2)
    plain.load_state_dict(torch.load(tmp_path / "g.pth", weights_only=True))
    x = torch.randn(1, 3, 20, 24)
    with torch.no_grad():
        torch.testing.assert_close(networks["G_B"].eval()(x), plain(x), rtol=0, atol=1e-5)
