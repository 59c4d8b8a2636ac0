"""The settings as keywords of `fit`: checked as YAML is, typed for editors, named in messages."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyclegan_fast
from cyclegan_fast.api import settings
from cyclegan_fast.api.keywords import ALONE, TYPES, config_from_keywords, in_keywords
from cyclegan_fast.api.settings import FitSettings
from cyclegan_fast.cli.flags import flags_of_settings
from cyclegan_fast.config import TrainConfig, to_dict
from cyclegan_fast.errors import UserError
from tests.api.generate_settings import settings_source


def test_the_typed_keywords_are_those_of_config() -> None:
    source = Path(inspect.getfile(settings)).read_text("utf-8")
    assert source == settings_source(), (
        "config.py has changed: python -m tests.api.generate_settings > new.py && "
        "mv new.py cyclegan_fast/api/settings.py"
    )
    assert FitSettings.__annotations__.keys() == TYPES.keys()
    assert not FitSettings.__required_keys__


def test_the_signature_lists_every_setting_with_its_default() -> None:
    parameters = inspect.signature(cyclegan_fast.fit).parameters
    assert list(parameters) == [*TYPES, "config", "on_log", "progress"]
    assert parameters["lr"].default == 2e-4
    assert parameters["crop_size"].annotation is int
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_no_keywords_are_the_defaults() -> None:
    assert config_from_keywords({}) == TrainConfig()


def test_every_field_of_every_group_is_a_keyword() -> None:
    flat = {name: value for group in to_dict(TrainConfig()).values() for name, value in group.items()}
    assert flat.keys() | {"resume"} == TYPES.keys()  # which is not stored
    given = {name: value for name, value in flat.items() if value is not None}
    assert config_from_keywords(given) == TrainConfig()


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("out", "runs/a", Path("runs/a")),
        ("out", "~/runs", Path.home() / "runs"),
        ("data", Path("images"), Path("images")),
        ("data", None, None),
        ("data_A", Path("a"), ("a",)),
        ("data_A", "a", ("a",)),
        ("data_A", ["a", Path("b")], ("a", "b")),
        ("lr", np.float32(0.5), 0.5),
        ("lr", 1, 1.0),
        ("batch_size", np.int64(3), 3),
        ("amp", True, "bf16"),
        ("amp", False, "off"),
        ("amp", "fp16", "fp16"),
        ("resume", True, "auto"),
        ("cuda_graphs", True, "auto"),
        ("side_by_side", False, "off"),
        ("flip", False, False),
        ("max_steps", None, None),
        ("depth", 16, "16"),
    ],
)
def test_values_are_stored_as_the_command_stores_them(name: str, value: Any, stored: Any) -> None:
    config = config_from_keywords({name: value})
    (found,) = (getattr(g, name) for g in vars(config).values() if hasattr(g, name))
    assert found == stored and type(found) is type(stored)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"learning_rat": 1}, "unknown setting 'learning_rat'"),
        ({"batch_siz": 1}, "did you mean 'batch_size'?"),
        ({"learning_rate": 1e-4}, "unknown setting 'learning_rate': here it is lr"),
        ({"gpu_ids": 0}, "device='cuda:0' for one GPU"),
        ({"netG": "resnet_6blocks"}, "here it is generator"),
        ({"lr": "fast"}, "fit.lr: expected float, got 'fast'"),
        ({"lr": -1}, "fit.lr must be from 0"),
        ({"lr": float("nan")}, "fit.lr must be from 0"),
        ({"batch_size": 2.5}, "fit.batch_size: expected int, got 2.5"),
        ({"batch_size": True}, "fit.batch_size: expected int, got True"),
        ({"flip": "no"}, "fit.flip: expected bool, got 'no'"),
        ({"amp": "fp8"}, "fit.amp: expected one of off, bf16, fp16, got 'fp8'"),
        ({"out": 3}, "fit.out: expected Path, got 3"),
        ({"data_A": []}, "fit.data_A: expected a list of at least one"),
    ],
)
def test_wrong_keywords_are_one_sentence(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        config_from_keywords(keywords)
    assert message in str(error.value)


def test_keywords_change_a_config() -> None:
    base = config_from_keywords({"lr": 1e-3, "ngf": 8})
    config = config_from_keywords({"lr": 2e-3, "out": "b"}, base)
    assert (config.optim.lr, config.model.ngf, config.run.out) == (2e-3, 8, Path("b"))


def test_true_means_what_the_flag_alone_means() -> None:
    assert {flag.name: flag.alone for flag in flags_of_settings(TrainConfig) if flag.alone} == ALONE


@pytest.mark.parametrize(
    ("flags", "keywords"),
    [
        (
            "continue it with --resume auto, or choose another --out",
            "continue it with resume=True, or choose another out",
        ),
        ("use --batch-size 1 without --grad-accumulation", "use batch_size=1 without grad_accumulation"),
        ("or --no-flip. Then", "or flip=False. Then"),
        ("with --paired also", "with paired=True also"),
        ("--cuda-graphs: there is none; use --cuda-graphs=auto", "cuda_graphs: there is none; use cuda_graphs='auto'"),
        ("lower --lr", "lower lr"),
        (
            "try: --generator resnet_3blocks --ngf 16 --load-size 64",
            "try: generator='resnet_3blocks', ngf=16, load_size=64",
        ),
        ("works for --generator resnet_<N>blocks", "works for generator resnet_<N>blocks"),
        ("leave out --resume off", "leave out resume=False"),
        ("no --data: --data FOLDER takes your own", "no data: data=FOLDER takes your own"),
        ("--device is not a GPU: --device cuda:0", "device is not a GPU: device='cuda:0'"),
        ("the option --else of a tool", "the option --else of a tool"),
    ],
)
def test_messages_name_keywords(flags: str, keywords: str) -> None:
    assert in_keywords(flags) == keywords


def test_keyword_types_are_no_narrower_than_the_stored_ones() -> None:
    """What the type checker accepts for a setting with choices is what `config_from_keywords` accepts."""
    for name, kind in typing.get_type_hints(FitSettings).items():
        for choice in typing.get_args(TYPES[name]) if typing.get_origin(TYPES[name]) is typing.Literal else ():
            assert choice in str(kind)
            config_from_keywords({name: choice})
