"""A run's folder: never overwritten, and its tables and settings can be read back."""

import csv
import dataclasses
import datetime
import json
import subprocess
from pathlib import Path

import pytest

from cnn import runs
from cnn.errors import UserError
from cnn.runs import (
    check_new,
    create_folder,
    environment,
    git_commit,
    read_config,
    write_csv,
    write_json,
)


def test_a_folder_that_exists_is_never_written_to(tmp_path):
    assert create_folder("train", tmp_path / "a" / "b").is_dir()
    with pytest.raises(UserError, match="b exists already, and a run never overwrites another"):
        create_folder("train", tmp_path / "a" / "b")


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"^--out: .*run cannot be made, since {tmp_path / 'file'} is no folder; name"):
        create_folder("train", tmp_path / "file" / "new" / "run")
    with pytest.raises(UserError, match=r"^--out: the name has characters that cannot be printed; name another"):
        check_new(Path("run\udcff"))
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    with pytest.raises(UserError, match=f"^--out: .*run cannot be made, since {tmp_path} may not be written to"):
        check_new(tmp_path / "new" / "run")


def test_without_out_the_folder_is_named_by_experiment_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = create_folder("train", None)
    assert folder.parent == Path("runs")
    assert folder.name.startswith("train-20")


def test_runs_that_are_begun_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    class Noon(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 1, 12)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.datetime, "datetime", Noon)
    names = [create_folder("train", None).name for _ in range(3)]
    assert names == [f"train-20260101-120000{more}" for more in ("", "-2", "-3")]


def test_settings_are_written_as_what_they_hold(tmp_path):
    @dataclasses.dataclass
    class Settings:
        data: Path
        size: tuple[int, int]

    write_json(tmp_path / "config.json", {"settings": Settings(Path("a/ü"), (3, 4))})
    assert read_config(tmp_path) == {"settings": {"data": "a/ü", "size": [3, 4]}}


def test_what_has_no_json_form_is_a_defect_and_said_so(tmp_path):
    with pytest.raises(TypeError, match="set has no JSON form"):
        write_json(tmp_path / "x.json", {"a": {1, 2}})


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UserError, match=r"holds no config.json; give the folder of a run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        read_config(tmp_path)


def test_a_table_survives_commas_and_line_breaks_in_names(tmp_path):
    write_csv(tmp_path / "t.csv", ("name", "n"), [('a,"b"\nc', 1)])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file)) == [["name", "n"], ['a,"b"\nc', "1"]]


def test_the_environment_names_versions_and_device():
    got = environment("cpu")
    assert got["device"] == "cpu"
    assert {"jax", "jaxlib", "flax", "optax", "numpy"} <= got["versions"].keys()
    json.dumps(got)


def test_a_commit_is_forty_digits_and_outside_git_there_is_none(monkeypatch):
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("+changes")) == 40
    monkeypatch.setenv("PATH", "")  # no git to ask
    assert git_commit() is None


def test_a_commit_is_that_of_this_code_and_tells_of_changed_experiments(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=b", *arguments], check=True)

    for name in ("cnn", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.py").write_text("")
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "cnn" / "runs.py"))
    git("init", "-q")
    git("add", "experiments")
    git("commit", "-qm", "one")
    assert git_commit() is None, "it lies in a repository that does not hold it"
    git("add", ".")
    git("commit", "-qm", "two")
    assert len(git_commit()) == 40
    (tmp_path / "experiments" / "runs.py").write_text("changed")
    assert git_commit().endswith("+changes")
