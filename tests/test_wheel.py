"""The wheel: what is in it, what it says of itself, and that it works where no checkout is."""

import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

import tokenunify_scale
from tokenunify_scale.cli import main

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ("tokenunify_scale", "ds_configs", "model_cards")  # folders of the checkout
BACKEND = 77  # the version of setuptools that pyproject.toml asks for

# One thing of each kind that is read at run time, then where all modules came from.
READ = """
import sys
from tokenunify_scale.cli import main
from tokenunify_scale.model_card import template
from tokenunify_scale.scaling.command import load_study
from tokenunify_scale.scaling.pages.published import facts
from tokenunify_scale.train.strategy import load_strategy
from tokenunify_scale.viewer.page import SOURCES, files
assert main("pretrain", ["--size", "atto", "--dry-run"]) == 0
assert load_study("cpu_demo").sizes and facts("scaling") and template()
assert load_strategy("atto")["zero_optimization"] == {"stage": 0}
assert all((files("tokenunify_scale.viewer") / "page" / name).read_text() for name in SOURCES)
print(*(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "tokenunify_scale"))
"""


class Wheel(NamedTuple):
    """A wheel, built from a copy of the checkout and unpacked."""

    names: set[str]
    folder: Path
    source: Path
    left: set[str]
    """What the build left behind at the top of its source."""


def known_to_git():
    """Files of the checkout that git has or would take, from its top."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git to tell which files are the project's: {error}")
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("unpacked")
    for name in known_to_git():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    earlier = source / "build" / "lib" / "tokenunify_scale" / "no_more.py"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("'A module that an earlier version had.'")
    before, dist = {path.name for path in source.iterdir()}, folder / "dist"
    words = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(dist), str(source)]
    try:
        at_hand = int(metadata.version("setuptools").split(".")[0]) >= BACKEND
    except metadata.PackageNotFoundError:
        at_hand = False
    words += ["--no-build-isolation", "--no-index"] if at_hand else []
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    if done.returncode and not at_hand and "build dependencies" in done.stderr:
        pytest.skip(f"setuptools {BACKEND} or newer is not here and could not be had")
    assert done.returncode == 0, done.stderr
    (file,) = dist.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
        names = set(archive.namelist())
    return Wheel(names, folder, source, {path.name for path in source.iterdir()} - before)


@pytest.fixture(scope="module")
def away(wheel, tmp_path_factory):
    """Run Python in an empty folder, with the unpacked wheel before any other installation."""
    variables = {**os.environ, "PYTHONPATH": str(wheel.folder)}
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=elsewhere, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert not list(elsewhere.iterdir())
        return done.stdout

    return call


@pytest.fixture(scope="module")
def told(wheel):
    (found,) = metadata.distributions(path=[str(wheel.folder)])
    return found


def test_all_that_is_installed_is_in_it_and_nothing_else(wheel):
    package = "tokenunify_scale"
    wanted = {
        name if name.startswith(f"{package}/") else f"{package}/{name}": name
        for name in known_to_git()
        if name.split("/")[0] in INSTALLED and (wheel.source / name).is_file()
    }
    inside = {name for name in wheel.names if ".dist-info/" not in name}
    assert inside == wanted.keys()
    for name, origin in wanted.items():
        assert (wheel.folder / name).read_bytes() == (wheel.source / origin).read_bytes(), name


def test_a_build_leaves_only_what_git_ignores(wheel):
    ignored = (ROOT / ".gitignore").read_text().split()
    assert wheel.left <= {"tokenunify_scale.egg-info"} and {"*.egg-info/", "build/"} <= {*ignored}


def test_it_is_named_licensed_and_described(wheel, told):
    assert told.metadata["Name"] == "tokenunify-scale"
    assert told.version == tokenunify_scale.__version__
    assert told.metadata["License-Expression"] == "Apache-2.0"
    assert told.metadata["Requires-Python"] == ">=3.10"
    assert told.metadata["Description-Content-Type"] == "text/markdown"
    text = (wheel.source / "README.md").read_text()
    assert (told.metadata["Description"] or told.metadata.get_payload()).strip() == text.strip()
    licence = next(file for file in told.files if file.name == "LICENSE")
    assert licence.read_text() == (wheel.source / "LICENSE").read_text()


def test_it_gives_the_command(told):
    (point,) = told.entry_points
    assert (point.group, point.name) == ("console_scripts", "tokenunify") and point.load() is main


def test_what_it_needs_can_be_had_in_parts(told):
    extras = {"gpu", "hub", "monai", "mpi", "tensorboard", "wandb", "test"}
    assert {*told.metadata.get_all("Provides-Extra")} == extras
    always = {re.match(r"[\w-]+", word)[0] for word in told.requires if "extra ==" not in word}
    assert {"torch", "deepspeed", "safetensors"} <= always
    assert not {"transformers", "mamba-ssm", "mpi4py", "pytest"} & always


def test_the_command_says_its_version_from_any_folder(away):
    told = away("-m", "tokenunify_scale", "--version")
    assert told == f"tokenunify-scale {tokenunify_scale.__version__}\n"


def test_it_plans_a_training_and_finds_what_is_no_code_from_any_folder(away, wheel):
    *told, places = away("-c", READ).splitlines()
    assert any("477,851" in line for line in told)
    assert all(Path(place).is_relative_to(wheel.folder) for place in places.split())
