"""What the project's files say of each other: install commands, names of files, make targets, versions, metadata."""

from __future__ import annotations

import importlib
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan_fast import ops
from cyclegan_fast.diagnosis.build import BUILD, BUILD_TOOLS
from cyclegan_fast.diagnosis.packages import EXTRAS, TORCH
from cyclegan_fast.training import resume, settings

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")

# ---- How it is installed: cyclegan_fast/diagnosis has the commands.
COMMANDS = [
    re.escape(BUILD),  # pip install -e .
    r"pip install --no-build-isolation -e \.",  # for front ends that hide the environment's torch
    rf"pip install -e '\.\[({'|'.join(PROJECT['optional-dependencies'])})\]'",
    rf"pip install '?cyclegan-fast\[({'|'.join(PROJECT['optional-dependencies'])})\]'?",
    re.escape(f'pip install "{TORCH}"'),
    r"pip install torch==[\d.]+",
    re.escape(f"pip install {' '.join(BUILD_TOOLS)}"),
    rf"pip install ({'|'.join(re.escape(tool) for tool in BUILD_TOOLS)})$",  # the one that is missing
    r"pip install [\w./-]*\.whl",
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def test_pages_and_messages_name_the_doctors_install_commands() -> None:
    found = {
        f"{path.name}: {command[0]}"
        for path in [*PAGES, *(ROOT / "cyclegan_fast").rglob("*.py")]
        if path.parent.name != "diagnosis"
        for command in re.finditer(r"pip install (?![{%]|-)[^`\n]*|pip install -e[^`\n]*", path.read_text("utf-8"))
    }
    assert len(found) > 20
    assert [text for text in sorted(found) if not any(re.match(c, text.split(": ", 1)[1]) for c in COMMANDS)] == []


def test_the_doctors_extras_are_those_of_the_package() -> None:
    assert {about.extra for about in EXTRAS.values()} <= set(PROJECT["optional-dependencies"])


# ---- What the pages name.
def test_how_it_works_lists_the_files_of_the_engine() -> None:
    folder = ROOT / "cyclegan_fast/engine"
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "docs/how_it_works.md").read_text("utf-8"), re.MULTILINE)
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if path.name != "__init__.py"}
    assert len(listed) == len(set(listed)) and set(listed) == there


def test_the_six_steps_name_files_that_are_there() -> None:
    section = CONTRIBUTING.split("## Add an op in six steps")[1]
    names = re.findall(r"`([\w./<>]+\.(?:py|h|cuh|cu|cpp|md))`", section)
    assert len(names) > 30
    for name in names:
        name = name.replace("<op>", "plane_statistics")
        assert list(ROOT.glob(name)) or list(ROOT.glob(f"*/**/{name}")), f"CONTRIBUTING.md names {name}"
    # and miss none of those that an op touches
    touched = subprocess.run(["git", "grep", "-l", "plane_statistics"], cwd=ROOT, capture_output=True, text=True)
    users = (
        "CONTRIBUTING",
        "cyclegan_fast/engine/",
        "tests/ops/test_instance_norm",
        "tests/ops/test_prop",
        "tests/test_",
    )
    for path in touched.stdout.split():
        if not path.startswith(users):
            general = path.replace("plane_statistics", "<op>").rsplit("/", 1)[-1]
            assert general in CONTRIBUTING, f"an op touches {path}, which CONTRIBUTING.md does not name"


def test_every_op_has_a_row_that_names_its_file() -> None:
    rows = re.findall(r"^\| (`.+?) \| (.+) \|$", CONTRIBUTING, re.MULTILINE)
    named = {name: files for names, files in rows for name in re.findall(r"`(\w+)`", names)}
    facts = {"build_info", "extension_available", "extension_error", "bfloat16_is_slow"}
    switches = {"use_reference", "narrow_convolutions"}
    assert set(named) == set(ops.__all__) - facts - switches
    for name, files in named.items():
        stem = re.search(r"`(?:ops/)?(\w+)", files)
        assert stem and hasattr(importlib.import_module(f"cyclegan_fast.ops.{stem[1]}"), name)


def test_the_functions_that_a_new_flag_meets_are_there() -> None:
    section = CONTRIBUTING.split("## Add a flag")[1]
    for module, name in ((settings, "resolve_settings"), (resume, "FREE_ON_RESUME")):
        assert hasattr(module, name) and f"`{name}`" in section


# ---- Workflows, forms, metadata.
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def steps(workflow: Path) -> list[dict[str, Any]]:
    return [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(workflow: Path) -> None:
    content = yaml.safe_load(workflow.read_text())
    assert content["permissions"] == {"contents": "read"} and content[True]  # YAML reads "on" as True
    assert all(job["timeout-minutes"] <= 240 for job in content["jobs"].values())
    for step in steps(workflow):
        assert ("run" in step) != ("uses" in step)
        assert set(re.findall(r"^make (\S+)", step.get("run", ""), re.MULTILINE)) <= make_targets()


def test_workflows_cover_check_test_wheels_and_docs() -> None:
    commands = " ".join(step.get("run", "") for workflow in WORKFLOWS for step in steps(workflow))
    for command in ("make check", "make test", "make wheels", "make try-wheels", "python -m mkdocs build --strict"):
        assert command in commands
    assert all(f'"{requirement}"' in commands for requirement in PROJECT["optional-dependencies"]["docs"])


@pytest.mark.parametrize("form", ["bug", "question"])
def test_forms_ask_for_the_doctors_report(form: str) -> None:
    content = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{form}.yml").read_text())
    required = [item for item in content["body"] if item.get("validations", {}).get("required")]
    words = " --smoke" if form == "bug" else ""
    assert any(f"`python -m cyclegan_fast.doctor{words} --json`" in item["attributes"]["label"] for item in required)


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(citation)
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhu", "Park", "Isola", "Efros"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:1703.10593"}]
