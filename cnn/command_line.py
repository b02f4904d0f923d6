"""From a settings dataclass to a program: options, --help, the device, and one sentence for a user's mistake."""

import dataclasses
import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from itertools import groupby
from pathlib import Path
from typing import Literal, TypeVar

import tyro

from cnn.errors import UserError, printable

S = TypeVar("S")
Positional = tyro.conf.Positional  # marks a setting that is given without its name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """The options that every experiment has."""

    seed: int = 0
    """Decides every random number: the same seed gives the same figures on the same machine and versions."""
    out: Path | None = None
    """Folder to write to; must not exist yet. Default: runs/NAME-DATE-TIME."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute. "auto" takes a GPU where jax shows one."""

    def __post_init__(self):
        at_least(0, seed=self.seed)
        at_most(2**31 - 1, seed=self.seed)  # what jax and scikit-learn take


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Common):
    """The options of every experiment that trains a network on a folder, or on drawn tissue."""

    data: Path | None = None
    """Folder with a sub-folder of images (TIFF, JPEG, PNG) for each class, or of UCSB files. Default: drawn tissue."""
    drawn: int = 500
    """How many images of tissue to draw where no --data is given."""
    group_pattern: str | None = None
    """Regular expression whose first group, in an image's path, names what must not be split apart (slide, patient)."""
    skip_bad: bool = False
    """Leave out files that cannot be used as images, and list them in skipped.csv, instead of stopping."""
    cache: Path | None = None
    """Folder in which decoded images are kept, to read a large set faster the next time. Default: none are kept."""
    positive: str | None = None
    """The class to find. Default: malignant, else the last in alphabetical order."""
    image_size: tuple[int, int] | None = None
    """Height and width, in pixels, to which every image is resized. Default: 384 448 for a folder, 120 160 for drawn
    tissue and for the networks that take one size only."""
    fit: Literal["squash", "pad"] = "squash"
    """How an image of another shape is fitted: squashed, or kept in shape with white beside it."""
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How pixels are mixed when an image is resized."""
    model: Literal[
        *("tissue", "seed", "wbc", "spanhol"),
        *("tissue-mean", "tissue-haematoxylin", "tissue-stains", "tissue-colours"),
    ] = "tissue"
    """The network. tissue: for few slides, of any size. seed: that of 2017. wbc: that which was adapted then. spanhol:
    Spanhol's, of 2016. tissue-...: tissue with one part changed, to see what it brings. See cnn/models.py."""
    dropout: float | None = None
    """Share of the last hidden features that is dropped in training, from 0 to less than 1. Default: the network's."""
    augmentation: Literal["auto", "none", "seed", "default", "crop"] = "auto"
    """What is done to each image before each step; see cnn/augment.py. "auto": crop for tissue, default for others."""
    batch: int = 16
    """Images a step."""
    learning_rate: float = 3e-3
    """Adam's step size; the largest where a schedule changes it."""
    schedule: Literal["constant", "cosine", "one-cycle"] = "one-cycle"
    """How the learning rate changes over the run. It rises slowly in one-cycle: a large first step can kill ReLUs."""
    weight_decay: float = 0.01
    """What a kernel loses of itself each step, times the learning rate (AdamW); 0 is plain Adam."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """How exactly a GPU multiplies: with 24 bits; with 11 ("tf32"); or with 8 while a network learns, in numbers of
    half the size in all its layers. A processor knows no tf32, and is slow in bfloat16."""
    resume: Path | None = None
    """Folder of an interrupted run, to go on where it stopped, with its own options and on the same images."""

    def __post_init__(self):
        super().__post_init__()
        at_least(1, batch=self.batch)
        at_least(1, image_size=min(self.size))
        at_least(0, learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        at_most(1000, learning_rate=self.learning_rate, weight_decay=self.weight_decay)  # infinite is too much
        at_least(20, drawn=self.drawn)
        if self.dropout is not None:
            at_least(0, dropout=self.dropout)
            if not self.dropout < 1:
                raise UserError(f"--dropout: got {self.dropout}, wants less than 1, or nothing would be left")
        if self.augmentation == "crop" and not self.takes_any_size:
            raise UserError(f"--augmentation: crop cuts squares, and --model {self.model} takes whole images only")

    @property
    def takes_any_size(self) -> bool:
        """Whether the network can be trained on squares and used on whole images."""
        return self.model.startswith("tissue")

    @property
    def size(self) -> tuple[int, int]:
        """`image_size`, or its default."""
        return self.image_size or ((384, 448) if self.data and self.takes_any_size else (120, 160))

    @property
    def source(self) -> str:
        """Where the images come from, for the first line."""
        return str(self.data or f"{self.drawn} images of drawn tissue, seed {self.seed}")

    @property
    def use_batch(self) -> int:
        """Images at a time when the network is used: `batch`, or fewer if they are large, to save memory."""
        return min(self.batch, max(1, (1 << 20) // (self.size[0] * self.size[1])))


def at_least(least: float, **settings: float) -> None:
    """Raises UserError unless each named setting is at least `least`; the name becomes the option's."""
    for name, value in settings.items():
        if not value >= least:  # written so that NaN is refused too
            raise UserError(f"--{name.replace('_', '-')}: got {value}, wants at least {least}")


def at_most(most: float, **settings: float) -> None:
    """Raises UserError unless each named setting is at most `most`; the name becomes the option's."""
    for name, value in settings.items():
        if not value <= most:
            raise UserError(f"--{name.replace('_', '-')}: got {value}, wants at most {most}")


def parse(settings: type[S]) -> S:
    """Reads the options that a settings dataclass defines from the command line.

    An experiment calls it before it imports jax and its companions, which take two seconds: --help and a mistyped
    option are answered at once.
    """
    spec = sys.modules["__main__"].__spec__  # None in a notebook
    program = f"python -m {spec.name}" if spec else None
    style, said = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes), io.StringIO()
    with one_sentence():
        try:
            with redirect_stderr(said):
                return tyro.cli(settings, prog=program, config=style)
        except SystemExit as stop:
            if stop.code == 2:
                raise UserError(f"{mistake_in(said.getvalue())}; see {program or sys.argv[0]} --help") from None
            raise


def mistake_in(box: str) -> str:
    """What is wrong with an option, out of the lines with a frame that tyro prints of it.

    >>> mistake_in("╭─ Value error ──╮\\n│ Error parsing --seed: invalid literal for int()  │\\n│ with: '1.5' │\\n"
    ...            "│ ──── │\\n│ Argument helptext: │\\n│  --seed INT │")
    "--seed: got '1.5', wants INT"
    >>> mistake_in("Unrecognized options\\n -------- \\n  Unrecognized options: slides \\n ---- \\n For full help")
    'Unrecognized options: slides'
    """
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]  # without its title
    # on a plain terminal its frame is of dashes
    ruled = groupby(lines, lambda line: bool(line) and set(line) <= {"─", "-"})
    text, *others = [" ".join(some) for is_rule, some in ruled if not is_rule] or [""]
    if option := re.match(r"Error parsing (--[\w-]+): ", text):
        wants = re.search(rf"helptext: +{option[1]} (\S+( [A-Z]+\}})?)", " ".join(others))
        got = re.search(r"from \[(.*?)\]|: ('.*')$", text)
        if wants and got:
            return f"{option[1]}: got {got[1] or got[2]}, wants {wants[1].removeprefix('{None}|').strip('{}')}"
    return text.rstrip(". ")


def begin_to_draw(recipe: Recipe) -> None:
    """Has other processes draw the tissue that a recipe without --data asks for, while this one imports jax."""
    if recipe.data is None and recipe.resume is None:  # a run that goes on has settings of its own
        from cnn import synthetic  # here, not above: an import of a third of a second that --help does not need

        synthetic.begin_to_draw(recipe.drawn, seed=recipe.seed, size=recipe.size)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns a UserError, a full disk or a full GPU into one line on the error output and exit status 2; Ctrl-C: 130.

    What the terminal's encoding cannot show is shown as its escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not in a notebook
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains again when it ends
        advice = "send it to a file instead, and go on with --resume, or run it again"
        print(f"error: what reads the output has ended before it was all there; {advice}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # no room, or none that is one's own
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(f"error: the disk is full{where}; make room, and go on with --resume, or run it again", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):  # as jax says it of a GPU's memory
            raise
        advice = "give a smaller --batch, or fewer --jobs, and go on with --resume, or run it again"
        print(f"error: the device's memory is full; {advice}", file=sys.stderr)
        sys.exit(2)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def choose_device(device: str, precision: str = "float32") -> str:
    """Makes jax compute on the device asked for, and says in words which one it is. Call before anything is computed.

    A GPU would multiply float32 as tf32 unless told otherwise; it does so for the `precision` "tf32" only.

    Raises:
        UserError: if a GPU was asked for and jax shows none.
    """
    import jax  # here, not above: an import of half a second that --help does not need

    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"  # for processes that this one may start
        jax.config.update("jax_platforms", "cpu")
    # Else the first of several processes takes most of a GPU's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        found = jax.devices("gpu" if device == "gpu" else None)[0]
    except RuntimeError as error:
        said = (str(error).strip().splitlines() or ["nothing"])[-1]
        raise UserError(
            "--device: jax shows no GPU; install the extra cuda13 on a machine that has one, or use --device cpu "
            f"(jax says: {said})"
        ) from None
    jax.config.update("jax_default_device", found)
    if found.platform != "cpu":
        products = "tensorfloat32" if precision == "tf32" else "float32"
        os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = products  # again for processes
        jax.config.update("jax_default_matmul_precision", products)
    return f"cpu ({os.cpu_count()} cores)" if found.platform == "cpu" else f"{found.platform} ({found.device_kind})"


def first_line(name: str, device: str, data: str) -> str:
    """What every experiment prints first."""
    from importlib.metadata import version

    return f"{name} | device: {device} | jax {version('jax')} | data: {data}"
