"""The command line: options come from the settings, and a mistake is answered by one sentence and exit status 2."""

import copy
import errno
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from cnn import command_line, progress
from cnn.errors import ImageError, ShapeError, UserError


@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Do nothing."""

    size: tuple[int, int] = (3, 4)
    """Height and width."""
    epochs: int = 1
    """How many."""

    def __post_init__(self):
        command_line.at_least(1, epochs=self.epochs)


def parse(monkeypatch, *arguments: str) -> Settings:
    """The settings that a command line gives."""
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    return command_line.parse(Settings)


def test_options_are_named_like_settings(monkeypatch):
    assert parse(monkeypatch) == Settings(seed=0, out=None, device="auto", size=(3, 4), epochs=1)
    got = parse(monkeypatch, "--size", "5", "6", "--seed", "7", "--out", "a/b", "--device", "cpu")
    assert got == Settings(seed=7, out=Path("a/b"), device="cpu", size=(5, 6))


def test_help_says_what_each_option_is_for_and_its_default(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(monkeypatch, "--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert stopped.value.code == 0
    assert "Do nothing." in text
    assert "--size INT INT Height and width. (default: 3 4)" in text


def test_a_value_out_of_range_is_one_sentence_and_exit_status_2(monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(monkeypatch, "--epochs", "0")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: --epochs: got 0, wants at least 1\n"


MISTYPED = {  # what is typed -> what of it must be said
    ("--epochs", "x"): "error: --epochs: got 'x', wants INT; see ",
    ("--size", "3"): "--size",
    ("--unknown",): "--unknown",
    ("slides",): "slides",
    ("--device", "tpu"): "'tpu'",
}


@pytest.mark.parametrize("arguments", MISTYPED)
def test_a_mistyped_option_is_one_line_and_exit_status_2_and_no_traceback(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        parse(monkeypatch, *arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert MISTYPED[arguments] in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert said.endswith(" --help\n")


@pytest.mark.parametrize("show", ["print('x' * 9999, flush=True)", "progress.terminal().print('x' * 9999)"])
def test_output_that_nobody_reads_any_more_is_one_sentence(show):
    program = f"from cnn import command_line, progress\nwith command_line.one_sentence():\n    while True: {show}"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(9)
        process.stdout.close()  # as `| head` does
        said = process.stderr.read().decode()
    assert process.returncode == 2
    assert said.startswith("error: what reads the output has ended before it was all there; send it to a file")
    assert said.count("\n") == 1


def test_what_a_terminal_cannot_show_is_shown_as_its_escape():
    program = "from cnn.command_line import one_sentence\nwith one_sentence(): print('組織')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, "\\u7d44\\u7e54\n")


def test_limits_name_the_option_and_refuse_nan():
    with pytest.raises(UserError, match="--learning-rate: got nan, wants at least 0"):
        command_line.at_least(0, learning_rate=float("nan"))
    with pytest.raises(UserError, match=r"--dropout: got 1.5, wants at most 0.99"):
        command_line.at_most(0.99, dropout=1.5)
    command_line.at_least(1, epochs=1)
    command_line.at_most(1, dropout=1)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ShapeError("dense", "inputs of shape (2, 3)", "(batch, 4)"),
            "dense: got inputs of shape (2, 3), wants (batch, 4)",
        ),
        (ImageError("a.tif", "it is empty", "remove it"), "a.tif: it is empty; remove it"),
    ],
)
def test_every_error_a_user_can_cause_becomes_one_sentence(capsys, error, sentence):
    with pytest.raises(SystemExit) as stopped, command_line.one_sentence():
        raise error
    assert (stopped.value.code, capsys.readouterr().err) == (2, f"error: {sentence}\n")
    assert str(copy.copy(error)) == sentence  # taken apart and put together, as on the way out of a process


def test_a_defect_of_the_project_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), command_line.one_sentence():
        1 / 0  # noqa: B018


def test_the_first_line_names_device_version_and_data():
    line = command_line.first_line("train", "cpu (2 cores)", "slides")
    assert line == f"train | device: cpu (2 cores) | jax {jax.__version__} | data: slides"


def test_a_full_disk_is_one_sentence_and_any_other_defect_stays_a_traceback(capsys):
    with pytest.raises(SystemExit) as stopped, command_line.one_sentence():
        raise OSError(errno.ENOSPC, "No space left on device", "runs/r/scores.png")
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: the disk is full at runs/r/scores.png; make room, and go on with --resume, or run it again\n"
    )
    with pytest.raises(OSError, match="something else"), command_line.one_sentence():
        raise OSError(errno.EIO, "something else")


def test_a_full_gpu_is_one_sentence_and_any_other_failure_of_jax_stays_a_traceback(capsys):
    with pytest.raises(SystemExit) as stopped, command_line.one_sentence():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: the device's memory is full; give a smaller --batch")
    assert said.count("\n") == 1
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), command_line.one_sentence():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


def test_a_gpu_that_is_absent_is_an_error_and_not_a_slow_run():
    if any(device.platform == "gpu" for device in jax.devices()):
        assert "gpu" in command_line.choose_device("gpu")
        return
    with pytest.raises(UserError, match="--device: jax shows no GPU"):
        command_line.choose_device("gpu")


def test_the_processor_can_be_asked_for():
    assert command_line.choose_device("cpu").startswith("cpu (")


def test_a_flag_of_the_user_is_left_as_it_is():
    code = "import os, cnn; print(os.environ['XLA_FLAGS'])"
    flag = "--xla_gpu_deterministic_ops=false"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": "", "XLA_FLAGS": flag},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split().count(flag) == 1
    assert "--xla_gpu_deterministic_ops=true" not in result.stdout


@pytest.mark.parametrize(
    ("options", "size", "use_batch"),
    [
        ({}, (120, 160), 16),
        ({"data": Path("slides")}, (384, 448), 6),
        ({"data": Path("slides"), "model": "seed"}, (120, 160), 16),
        ({"image_size": (30, 40), "batch": 500}, (30, 40), 500),
        ({"image_size": (2000, 2000)}, (2000, 2000), 1),
    ],
)
def test_a_recipe_knows_the_size_of_its_images_and_how_many_fit_into_memory(options, size, use_batch):
    recipe = command_line.Recipe(**options)
    assert (recipe.size, recipe.use_batch) == (size, use_batch)


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch", 0), ("learning_rate", -1.0), ("learning_rate", math.inf), ("dropout", 1.0), ("drawn", 19)],
)
def test_a_recipe_that_cannot_be_names_its_option(option, value):
    with pytest.raises(UserError, match=f"^--{option.replace('_', '-')}: got {value}, wants (at|less than)"):
        command_line.Recipe(**{option: value})


def test_a_terminal_shows_names_and_obeys_none_of_them(capsys):
    console = progress.terminal()
    with console.capture() as shown:
        console.print("[red]a[/b] :smile: [0.1, 0.2]", highlight=False)
    assert shown.get() == "[red]a[/b] :smile: [0.1, 0.2]\n"
    with pytest.raises(SystemExit), command_line.one_sentence():
        raise UserError("\x1b[31m.png: two\nlines")
    assert capsys.readouterr().err == "error: \\x1b[31m.png: two\nlines\n"


@pytest.mark.parametrize(("precision", "products"), [("float32", "float32"), ("tf32", "tensorfloat32")])
def test_on_a_gpu_products_are_as_asked_for_here_and_in_processes_that_are_started(monkeypatch, precision, products):
    settings = {}
    gpu = SimpleNamespace(platform="gpu", device_kind="a GPU")
    monkeypatch.setattr(jax, "devices", lambda kind=None: [gpu])
    monkeypatch.setattr(type(jax.config), "update", lambda self, name, value: settings.update({name: value}))
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "to be replaced")
    assert command_line.choose_device("auto", precision) == "gpu (a GPU)"
    assert settings["jax_default_matmul_precision"] == products
    assert os.environ["JAX_DEFAULT_MATMUL_PRECISION"] == products


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    for settings in (command_line.Common, command_line.Recipe):
        with pytest.raises(UserError, match=f"--seed: got {seed}, wants at "):
            settings(seed=seed)
