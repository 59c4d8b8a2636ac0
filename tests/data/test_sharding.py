"""What several training processes take of one set: nothing twice, nothing left out, the same after a resume."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cyclegan_fast.config import DataConfig, OptimConfig, TrainConfig
from cyclegan_fast.data import TrainingImage, build_train_loader
from cyclegan_fast.data.catalog.probe import ImageMetadata
from cyclegan_fast.data.loaders import Loader
from cyclegan_fast.data.loaders.samples import Domain, Samples
from cyclegan_fast.data.loaders.sharding import assign_ranks
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import PixelFormat
from cyclegan_fast.images.image_file import ImageFile
from tests.data.sample_locations import make_images, make_shard, png, settings


def files(folder: str, count: int) -> Domain:
    return Domain([ImageFile(f"/{folder}/{i:03d}.png") for i in range(count)], np.full((count, 2), 8), PixelFormat())


def shards(name: str, *counts: int) -> Domain:
    sources = [
        ImageFile(f"/{name}-{shard}.tar", f"{i:03d}.png", 512 * i, 9)
        for shard, n in enumerate(counts)
        for i in range(n)
    ]
    return Domain(sources, np.full((len(sources), 2), 8), PixelFormat())


def ranks(a: Domain, b: Domain, world: int, **data: Any) -> list[Samples]:
    return [Samples(DataConfig(**data), a, b, 5, rank=rank, world=world) for rank in range(world)]


def samples_of(samples: Samples, first: int, count: int) -> list[tuple[ImageFile, ImageFile]]:
    """What one rank takes, as (A, B)."""
    drawn = (samples.draw(number) for number in islice(samples.numbers(first), count))
    return [(samples.domains[0].files[s.index_A], samples.domains[1].files[s.index_B]) for s in drawn]


# ---- Files: together the ranks take the stream of one ----
@pytest.mark.parametrize("world", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("data", [{}, {"serial_batches": True}, {"paired": True}], ids=str)
def test_ranks_share_the_stream_of_one(world: int, data: dict[str, Any]) -> None:
    a, b = files("a", 30), files("b", 30)
    (alone,) = ranks(a, b, 1, **data)
    expected = samples_of(alone, 0, 60)
    parts = [samples_of(samples, 0, -(-60 // world)) for samples in ranks(a, b, world, **data)]
    taken = [pair for together in zip(*parts, strict=True) for pair in together][:60]
    assert taken == expected
    for first in (0, 30):  # a pass ends within a step of 4 or 7
        assert sorted(source for source, _ in taken[first : first + 30]) == list(a.files)  # disjoint, and all of it


def test_augmentation_is_that_of_one() -> None:
    (alone,) = ranks(files("a", 7), files("b", 5), 1)
    for samples in ranks(files("a", 7), files("b", 5), 3):
        assert [samples.draw(n) for n in range(40)] == [alone.draw(n) for n in range(40)]


def test_another_number_of_ranks_goes_on_with_the_next_sample() -> None:
    a, b = files("a", 30), files("b", 20)
    (alone,) = ranks(a, b, 1)
    expected = samples_of(alone, 10, 12)
    for world in (2, 3, 4):
        parts = [samples_of(samples, 10, 12 // world) for samples in ranks(a, b, world)]
        assert [pair for together in zip(*parts, strict=True) for pair in together] == expected


# ---- Shards: each rank has its own ----
@pytest.mark.parametrize("serial", [False, True])
def test_each_rank_reads_its_own_shards_and_all_of_them(serial: bool) -> None:
    a, b = shards("a", 6, 2, 4, 4), shards("b", 3, 5, 4, 4)  # 8 and 8 of each domain for two ranks
    seen = [samples_of(samples, 0, 8) for samples in ranks(a, b, 2, serial_batches=serial)]
    paths = [{source.path for pair in part for source in pair} for part in seen]
    assert paths[0].isdisjoint(paths[1])
    assert sorted(source for part in seen for source, _ in part) == sorted(a.files)  # one epoch, each once
    if serial:
        assert all([s for s, _ in part] == sorted(s for s, _ in part) for part in seen)


def test_on_another_number_of_ranks_the_pass_through_shards_is_not_whole_and_the_next_one_is() -> None:
    """Who has which shards changes in the middle."""
    a, b = shards("a", 4, 4, 4, 4), files("b", 16)
    before = [source for one in ranks(a, b, 2) for source, _ in samples_of(one, 0, 4)]
    after = [samples_of(one, 8, 2 + 4) for one in ranks(a, b, 4)]
    running = [*before, *(source for part in after for source, _ in part[:2])]
    assert len(running) == 16 and len(set(running)) < 16
    assert sorted(source for part in after for source, _ in part[2:]) == sorted(a.files)


def test_ranks_of_equal_size_go_through_their_shards_in_orders_of_their_own() -> None:
    first, second = (
        [source.member for source, _ in samples_of(samples, 0, 50)]
        for samples in ranks(shards("a", 50, 50), files("b", 9), 2)
    )
    assert sorted(first) == sorted(second) and first != second


def test_files_beside_shards_are_shared_out_too() -> None:
    samples = ranks(shards("a", 5, 5, 5), files("b", 8), 3)
    parts = [set(one.domains[1].files) for one in samples]
    assert sorted(len(part) for part in parts) == [2, 3, 3] and set.union(*parts) == set(files("b", 8).files)
    assert all(one.counts == (15, 8) and len(one) == 15 for one in samples)  # a checkpoint of any rank says the same


def test_pairs_stay_together_wherever_the_partner_is() -> None:
    a, b = shards("a", 3, 3, 3, 3), shards("b", 6, 6)
    partner = dict(zip(a.files, b.files, strict=True))
    seen = [pair for one in ranks(a, b, 4, paired=True) for pair in samples_of(one, 0, 3)]
    assert sorted(source for source, _ in seen) == sorted(a.files)
    assert all(partner[source] == other for source, other in seen)


def test_the_largest_shard_goes_first_to_who_has_least() -> None:
    sizes = (100, 10, 90, 50, 50, 40)
    domain = shards("a", *sizes)
    owner = assign_ranks(domain.files, 3)
    assert sorted(np.bincount(owner)) == [100, 110, 130]
    for shard in range(len(sizes)):
        assert len({rank for rank, s in zip(owner, domain.files, strict=True) if s.path == f"/a-{shard}.tar"}) == 1
    equal = assign_ranks(shards("a", *[10] * 10).files, 4)
    assert sorted(np.bincount(equal)) == [20, 20, 30, 30]


def test_fewer_shards_than_ranks() -> None:
    with pytest.raises(UserError, match=r"4 processes share 3 shards.*/a-0\.tar.*fewer processes"):
        ranks(shards("a", 5, 5, 5), files("b", 8), 4)


# ---- Every loader ----
def from_shards(tmp_path: Path, loader_name: str, **data: Any) -> TrainConfig:
    for shard in range(4):
        make_shard(tmp_path / f"a-{shard}.tar", {f"{shard}{i}.png": png(10 * shard + i) for i in range(3)})
    make_images(tmp_path / "y", 6, seed=50)
    locations = {"data_A": (str(tmp_path / "a-{0..3}.tar"),), "data_B": (str(tmp_path / "y"),)}
    return settings(loader_name, **locations, **data)


def take(loader: Loader, count: int) -> list[dict[str, Any]]:
    return list(islice(loader, count))


def paths(batches: list[dict[str, Any]], side: str = "A") -> list[str]:
    return [path for batch in batches for path in batch[f"paths_{side}"]]


def test_ranks_of_any_loader_cover_an_epoch_of_shards(loader_name: str, tmp_path: Path) -> None:
    config = from_shards(tmp_path, loader_name)
    loaders = [build_train_loader(config, "cpu", rank=rank, world=2) for rank in range(2)]
    assert [loader.epoch_size for loader in loaders] == [12, 12]
    seen = [paths(take(loader, 6)) for loader in loaders]
    assert len(set(seen[0]) | set(seen[1])) == 12
    assert {p.split(":")[0] for p in seen[0]}.isdisjoint(p.split(":")[0] for p in seen[1])
    assert [loader.state_dict() for loader in loaders] == [{"sample": 12}] * 2


@pytest.mark.parametrize("sharded", [True, False])
def test_ranks_of_any_loader_resume_exactly(loader_name: str, good_folder: Path, tmp_path: Path, sharded: bool) -> None:
    config = from_shards(tmp_path, loader_name) if sharded else settings(loader_name, data=good_folder)
    for rank in range(2):
        whole = take(build_train_loader(config, "cpu", rank=rank, world=2), 9)
        again = build_train_loader(config, "cpu", rank=rank, world=2)
        again.load_state_dict({"sample": 2 * 4})
        for new, old in zip(take(again, 5), whole[4:], strict=True):
            assert torch.equal(new["A"], old["A"]) and torch.equal(new["B"], old["B"])


def test_ranks_of_any_loader_make_the_batches_of_one(loader_name: str, good_folder: Path) -> None:
    config = settings(loader_name, data=good_folder)
    config = TrainConfig(data=config.data, run=config.run, optim=OptimConfig(batch_size=2))
    alone = take(build_train_loader(config, "cpu"), 6)
    parts = [take(build_train_loader(config, "cpu", rank=rank, world=2), 3) for rank in range(2)]
    for side in ("A", "B"):
        images = torch.cat([batch[side] for batch in alone])  # [12, C, H, W]
        for rank, part in enumerate(parts):
            assert torch.equal(torch.cat([batch[side] for batch in part]), images[rank::2])


@pytest.mark.parametrize("workers", [1, 2])
def test_shares_do_not_depend_on_the_number_of_workers(loader_name: str, tmp_path: Path, workers: int) -> None:
    expected = take(build_train_loader(from_shards(tmp_path, loader_name), "cpu", rank=1, world=2), 8)
    with build_train_loader(from_shards(tmp_path, loader_name, workers=workers), "cpu", rank=1, world=2) as loader:
        for new, old in zip(take(loader, 8), expected, strict=True):
            assert (
                new["paths_A"] == old["paths_A"] and torch.equal(new["A"], old["A"]) and torch.equal(new["B"], old["B"])
            )


def test_limits_come_before_the_shares(loader_name: str, tmp_path: Path) -> None:
    config = from_shards(tmp_path, loader_name, max_dataset_size=6, direction="BtoA", serial_batches=True)
    seen = [take(build_train_loader(config, "cpu", rank=rank, world=2), 3) for rank in range(2)]
    assert {Path(p).parent.name for part in seen for p in paths(part)} == {"y"}
    members = {p.rpartition("/")[2] for part in seen for p in paths(part, "B")}
    assert members == {f"a-{shard}.tar:{shard}{i}.png" for shard in range(2) for i in range(3)}


def test_a_bad_member_is_replaced_from_the_own_shards(tmp_path: Path) -> None:
    config = from_shards(tmp_path, "torch", on_bad_image="skip")
    with build_train_loader(config, "cpu", rank=0, world=2) as loader:
        own = {source.path for source in loader.samples.domains[0].files}
        sorted(map(Path, own))[0].write_bytes(b"")
        seen = paths(take(loader, 12))
    assert len(loader.skipped) == 3 and {p.split(":")[0] for p in seen} == set(sorted(own)[1:])


def test_a_domain_of_many_images_is_small() -> None:
    """A million travel to each worker process in some tens of megabytes."""
    metadata = ImageMetadata(8, 8, "PNG", "RGB", 8, 1, False, False, "", "", 0, 3, True, "8", 0.0, 255.0, "")
    images = [TrainingImage(ImageFile(f"/a/folder/of/images/{i:07d}.png"), (i, 8), metadata) for i in range(20_000)]
    domain = Domain.of(images, PixelFormat())
    assert len(pickle.dumps(domain)) < 80 * len(images)
    assert domain.files[777] == images[777].file and tuple(domain.sizes[777]) == images[777].size
