"""The README is true: its commands can be given, its links lead somewhere, and its figures are those of the code."""

import importlib
import re
import shlex
import sys
from pathlib import Path

import jax
import pytest

from cnn import command_line, models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    part.strip()
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", README, flags=re.DOTALL)
    for line in block.splitlines()
    for part in line.split("#")[0].split("&&")
    if part.strip().startswith("python -m")
]


def test_there_are_commands_to_check():
    assert any("experiments.train" in command for command in COMMANDS)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_of_the_readme_can_be_given(command, monkeypatch):
    module, *options = shlex.split(command)[2:]
    settings = importlib.import_module(module).Settings
    monkeypatch.setattr(sys, "argv", [module, *options])
    assert isinstance(command_line.parse(settings), settings)


def test_the_two_sacred_commands_are_there():
    assert "pip install -e . && python -m experiments.train" in README
    assert "pip install -e '.[test]' && pytest" in README


def test_every_link_to_a_file_leads_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "experiments").glob("*.md")):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        targets = [target for target in links if "://" not in target]
        assert targets
        for target in targets:
            assert (page.parent / target).exists(), f"{target}, in {page.name}"


def test_the_number_of_parameters_is_the_networks():
    network = models.seed((120, 160, 3), 2, key=jax.random.key(0))
    total = sum(row.parameters for row in models.table(network, (120, 160, 3)))
    assert f"{total:,}" in README


def test_every_experiment_is_explained():
    for path in (ROOT / "experiments").glob("[a-z]*.py"):
        assert f"experiments.{path.stem}" in README, f"{path.stem} is not in the README"
