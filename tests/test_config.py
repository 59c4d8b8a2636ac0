"""The settings: every number has a range, and files of settings are read strictly."""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import replace

import pytest

from cyclegan_fast import config as config_module
from cyclegan_fast.config import PixelFormat, TrainConfig, check_ranges, from_dict, number, to_dict
from cyclegan_fast.errors import UserError

GROUPS = {f.name: type(getattr(TrainConfig(), f.name)) for f in dataclasses.fields(TrainConfig)}
NUMBERS = [
    (group, field)
    for group, cls in GROUPS.items()
    for field in dataclasses.fields(cls)
    if {int, float} & {hint := typing.get_type_hints(cls)[field.name], *typing.get_args(hint)}
]


def changed(group: str, name: str, value: object) -> TrainConfig:
    config = TrainConfig()
    return replace(config, **{group: replace(getattr(config, group), **{name: value})})


def test_the_defaults_are_in_range() -> None:
    assert len(NUMBERS) > 30
    check_ranges(TrainConfig())
    assert from_dict(PixelFormat, to_dict(PixelFormat())) == PixelFormat()


def without_range(cls: type) -> list[str]:
    """The fields of a dataclass that hold an int or a float, alone or in a container, and have no range."""

    def holds_a_number(hint: object) -> bool:
        return hint in (int, float) or any(map(holds_a_number, typing.get_args(hint)))

    hints = typing.get_type_hints(cls)
    return [f.name for f in dataclasses.fields(cls) if holds_a_number(hints[f.name]) and "range" not in f.metadata]


def test_no_setting_is_without_a_range() -> None:
    classes = [cls for cls in vars(config_module).values() if isinstance(cls, type) and dataclasses.is_dataclass(cls)]
    assert {*GROUPS.values(), PixelFormat, TrainConfig} <= set(classes)
    assert {cls.__name__: names for cls in classes if (names := without_range(cls))} == {}


def test_a_new_setting_without_a_range_is_found() -> None:
    @dataclasses.dataclass(frozen=True)
    class New:
        weight: float = 0.5
        steps: int | None = None
        betas: tuple[float, ...] = (0.5, 0.999)
        ranged: int = number(3, min=1)
        flag: bool = False
        name: str = ""

    assert without_range(New) == ["weight", "steps", "betas"]


@pytest.mark.parametrize(("group", "field"), NUMBERS, ids=lambda x: x if isinstance(x, str) else x.name)
def test_every_number_has_a_range(group: str, field: dataclasses.Field[object]) -> None:
    low, high = field.metadata["range"]
    assert low < high
    flag = f"--{field.name.replace('_', '-')}"
    for value in (low - max(1, abs(low)), high * 2 + 1, math.nan):
        if value == math.inf:  # no upper limit
            continue
        with pytest.raises(UserError, match=rf"^{flag} must be (from|at least) .*, got "):
            check_ranges(changed(group, field.name, value))
        if not math.isnan(value):
            value = int(value) if isinstance(low, int) and abs(value) < 1e18 else value
            with pytest.raises(UserError, match=rf"^a\.yaml\.{group}\.{field.name}(: expected int| must be)"):
                from_dict(TrainConfig, {group: {field.name: value}}, where="a.yaml")


def test_unknown_settings_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'batchsize', did you mean 'batch_size'\?"):
        from_dict(TrainConfig, {"optim": {"batchsize": 2}})
    with pytest.raises(UserError, match="unknown setting 'lr', it belongs to the group 'optim'"):
        from_dict(TrainConfig, {"lr": 1e-3})
    with pytest.raises(UserError, match="unknown setting '1'"):
        from_dict(TrainConfig, {1: 2})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("group", "values", "reason"),
    [
        ("objective", {"gan_mode": "lsgam"}, "expected one of lsgan, vanilla, wgangp, hinge, got 'lsgam'"),
        ("optim", {"batch_size": "two"}, "expected int, got 'two'"),
        ("optim", {"batch_size": True}, "expected int, got True"),
        ("optim", {"batch_size": 1.5}, "expected int, got 1.5"),
        ("optim", {"lr": True}, "expected float, got True"),
        ("optim", {"lr": "fast"}, "expected float, got 'fast'"),
        ("optim", {"lr": None}, "expected float, got None"),
        ("data", {"flip": "yes"}, "expected bool, got 'yes'"),
        ("data", {"data": 3}, "expected Path, got 3"),
        ("data", {"data_A": []}, r"expected a list of at least one, got \[\]"),
    ],
)
def test_values_of_another_type_are_refused(group: str, values: dict[str, object], reason: str) -> None:
    (name,) = values
    with pytest.raises(UserError, match=f"^config.{group}.{name}: {reason}$"):
        from_dict(TrainConfig, {group: values})


def test_what_yaml_reads_otherwise_is_understood() -> None:
    assert from_dict(TrainConfig, {"optim": {"lr": "2e-4"}}).optim.lr == 2e-4
    assert from_dict(TrainConfig, {"optim": {"lr": 1}}).optim.lr == 1.0
    assert from_dict(TrainConfig, {"run": {"cuda_graphs": True, "amp": False}}).run.cuda_graphs == "on"
    assert from_dict(TrainConfig, {"data": {"depth": 16, "data_A": "one"}}).data.depth == "16"
    assert from_dict(TrainConfig, {"data": {"data_A": "one"}}).data.data_A == ("one",)
    assert from_dict(TrainConfig, {"run": {"max_steps": None}}).run.max_steps is None


def test_settings_survive_a_round_trip() -> None:
    config = changed("data", "data_A", ("one", "two"))
    assert from_dict(TrainConfig, to_dict(config)) == config
