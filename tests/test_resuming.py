"""Going on with a run: its own settings, its own images, and one process at a time."""

import errno
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from cnn import resuming
from cnn.errors import ImageError, UserError
from cnn.resuming import alone, begin_or_resume, check_unfinished, how_to_go_on, note_changes, own_settings, unfinish
from cnn.runs import write_json


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A few options of every kind."""

    epochs: int = 40
    data: Path | None = None
    image_size: tuple[int, int] | None = None
    rate: float = 0.1
    out: Path | None = None
    resume: Path | None = None
    allow_change: tuple[str, ...] = ()
    jobs: int = 1
    save_every: float = 30.0
    debug_nans: bool = False


def begun(tmp_path: Path, **options) -> Path:
    """The folder of a run that was begun with those options."""
    return begin_or_resume("train", Settings(out=tmp_path / "run", **options), "cpu", data_digest="abc")


def test_a_run_goes_on_with_its_own_settings_without_their_being_given_again(tmp_path):
    (tmp_path / "slides").mkdir()
    folder = begun(tmp_path, epochs=7, data=tmp_path / "slides", image_size=(24, 32), jobs=2)
    got = own_settings("train", Settings(resume=folder))
    assert got == Settings(epochs=7, data=tmp_path / "slides", image_size=(24, 32), resume=folder)
    assert isinstance(got.data, Path)
    assert isinstance(got.image_size, tuple)
    assert got.jobs == 1, "how many processes, and where, is of the moment"
    assert own_settings("train", Settings(epochs=3)) == Settings(epochs=3)


def test_images_that_are_not_where_they_were_are_asked_for(tmp_path):
    folder = begun(tmp_path, data=Path("slides"))
    with pytest.raises(UserError, match="was begun on slides, which is not there; say where, with --data"):
        own_settings("train", Settings(resume=folder))
    assert own_settings("train", Settings(resume=folder, data=tmp_path)).data == tmp_path


def test_what_differs_is_listed_and_refused(tmp_path):
    folder = begun(tmp_path, epochs=7, image_size=(24, 32))
    with pytest.raises(UserError) as error:
        own_settings("train", Settings(resume=folder, epochs=9, rate=0.5, image_size=(24, 32)))
    assert str(error.value) == (
        f"{folder}: was begun with other settings: --epochs was 7 and is 9; --rate was 0.1 and is 0.5; leave them out, "
        "or begin a new run; what a training may change on its way, --allow-change says"
    )


def test_what_is_allowed_by_name_is_the_runs_own_from_then_on(tmp_path):
    folder = begun(tmp_path, epochs=7, image_size=(24, 32))
    allowed = own_settings("train", Settings(resume=folder, epochs=9, allow_change=("epochs",)))
    assert (allowed.epochs, allowed.image_size) == (9, (24, 32))
    begin_or_resume("train", allowed, "cpu", data_digest="abc")
    assert own_settings("train", Settings(resume=folder)).epochs == 7, "as long as another may be at work in it"
    note_changes(allowed, "abc")
    assert own_settings("train", Settings(resume=folder)).epochs == 9
    default = own_settings("train", Settings(resume=folder, allow_change=("epochs",)))
    assert default.epochs == 40, "named, a setting is taken though it has its default"
    assert json.loads((folder / "config.json").read_text())["settings"]["resume"] is None


def test_what_a_step_sees_and_what_the_network_is_cannot_change(tmp_path):
    folder = begun(tmp_path)
    with pytest.raises(UserError, match=r"^--allow-change: image_size cannot change; only data, epochs, pati"):
        own_settings("train", Settings(resume=folder, image_size=(5, 5), allow_change=("image-size",)))
    with pytest.raises(UserError, match=r"^--allow-change: is for a run that goes on"):
        own_settings("train", Settings(allow_change=("epochs",)))
    with pytest.raises(UserError, match=r"^--out: a run that goes on writes to its own folder"):
        own_settings("train", Settings(resume=folder, out=tmp_path / "other"))


def test_other_images_are_refused_wherever_they_lie_and_the_same_are_taken_from_anywhere(tmp_path):
    folder = begun(tmp_path, data=Path("old"))
    moved = own_settings("train", Settings(resume=folder, data=Path("new")))
    assert moved.data == Path("new")
    assert begin_or_resume("train", moved, "cpu", data_digest="abc") == folder
    with pytest.raises(UserError, match="was begun on other images, labels or groups than new; give the same"):
        begin_or_resume("train", moved, "cpu", data_digest="other")
    allowed = Settings(resume=folder, allow_change=("data",))
    assert begin_or_resume("train", allowed, "cpu", data_digest="other") == folder


def test_a_run_of_another_experiment_is_refused(tmp_path):
    folder = begun(tmp_path)
    with pytest.raises(UserError, match=r"^--resume: .* is a run of train, not of cross_validate; name one that"):
        own_settings("cross_validate", Settings(resume=folder))
    (folder / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^--resume: .* is a run of something else, not of train; name one that train"):
        own_settings("train", Settings(resume=folder))
    (folder / "config.json").write_text('{"experiment": "train", "settings": {}}')
    with pytest.raises(UserError, match=r"config.json: is damaged, or of another version of this project; give the"):
        own_settings("train", Settings(resume=folder))


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        own_settings("train", Settings(resume=tmp_path))


def test_a_run_goes_on_with_other_images_but_not_with_other_classes(tmp_path):
    network, first = {"classes": ("a", "b")}, Settings(out=tmp_path / "run")
    folder = begin_or_resume("train", first, "cpu", data_digest="abc", network=network, splits={"test": ["a/1.png"]})
    settings = Settings(resume=folder, allow_change=("data",))
    assert begin_or_resume("train", settings, "cpu", data_digest="new", network=network) == folder
    with pytest.raises(UserError, match=r"its network was .*'b'.* and would be .*'c'.*; begin a new run$"):
        begin_or_resume("train", settings, "cpu", data_digest="new", network={"classes": ("a", "c")})
    note_changes(settings, "new", splits={"test": ["a/1.png", "a/2.png"]})
    config = json.loads((folder / "config.json").read_text())
    assert (config["data_digest"], config["splits"]) == ("new", {"test": ["a/1.png", "a/2.png"]})


def test_a_finished_run_that_gets_more_epochs_can_be_interrupted_and_gone_on_with(tmp_path):
    folder = begun(tmp_path)
    unfinish(folder)
    write_json(folder / "metrics.json", {"auc": 1})
    unfinish(folder)
    check_unfinished(Settings(resume=folder))
    assert json.loads((folder / "metrics-before.json").read_text()) == {"auc": 1}


def test_a_folder_that_cannot_be_locked_is_one_sentence(tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(resuming, "_lock", refuse)
    said = r"cannot be kept from other processes \(No locks available\); give --out"
    with pytest.raises(UserError, match=said), alone(tmp_path):
        pass
    with pytest.raises(UserError, match=r"cannot be written to \(No such file"), alone(tmp_path / "nowhere"):
        pass


def test_how_to_go_on_names_what_is_not_in_the_folder():
    spaced = how_to_go_on("train", Settings(), Path("my runs/1"))
    assert spaced == "python -m experiments.train --resume 'my runs/1'", "as a shell takes it"
    assert how_to_go_on("train", Settings(), Path("r")) == "python -m experiments.train --resume r"
    assert how_to_go_on("train", Settings(jobs=2), Path("r")) == "python -m experiments.train --resume r --jobs 2"
    slow = Settings(save_every=2.5, debug_nans=True)
    assert how_to_go_on("train", slow, Path("r")).endswith(" --resume r --save-every 2.5 --debug-nans")


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    folder = begun(tmp_path)
    check_unfinished(Settings(resume=folder))
    write_json(folder / "metrics.json", {})
    with pytest.raises(UserError, match=r"is finished; use it with python -m experiments.predict"):
        check_unfinished(Settings(resume=folder))
    check_unfinished(Settings())
    check_unfinished(Settings(resume=folder, epochs=80, allow_change=("epochs",)))


def test_two_processes_do_not_share_a_folder_and_the_first_is_unharmed(tmp_path):
    program = (
        "import sys; from pathlib import Path; from cnn.resuming import alone\n"
        "with alone(Path(sys.argv[1])):\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(UserError) as error, alone(tmp_path):
            pass
        assert str(error.value) == f"{tmp_path}: process {first.pid} is at work in it; wait for it, or stop it"
        assert first.poll() is None
        first.kill()  # its lock goes with it, though nobody has taken it away
        first.wait()
        with alone(tmp_path):
            pass


def test_what_was_left_out_is_listed_in_the_folder(tmp_path, capsys):
    bad = [ImageError("a,b.png", "is empty", "copy it again")]
    folder = begin_or_resume("train", Settings(out=tmp_path / "run"), "cpu", data_digest="abc", skipped=bad)
    assert (folder / "skipped.csv").read_text() == 'file,reason,remedy\n"a,b.png",is empty,copy it again\n'
    assert capsys.readouterr().out == f"left out 1 bad file: see {folder / 'skipped.csv'}\n"


def test_a_new_run_is_written_down_with_what_it_was_begun_on(tmp_path):
    config = json.loads((begun(tmp_path, epochs=7) / "config.json").read_text())
    assert (config["experiment"], config["data_digest"], config["settings"]["epochs"]) == ("train", "abc", 7)
