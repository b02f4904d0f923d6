"""From a settings dataclass to a program: options, --help, the device, and one sentence for a user's mistake."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import tyro

from cnn.errors import UserError

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
    with one_sentence():
        return tyro.cli(settings, prog=program, config=(tyro.conf.FlagConversionOff, tyro.conf.OmitArgPrefixes))


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turns a UserError into one line on the error output and exit status 2."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def choose_device(device: str) -> str:
    """Makes jax compute on the device asked for, and says in words which one it is. Call before anything is computed.

    Raises:
        UserError: if a GPU was asked for and jax shows none.
    """
    import jax  # here, not above: an import of half a second that --help does not need

    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        found = jax.devices("gpu" if device == "gpu" else None)[0]
    except RuntimeError:
        raise UserError(
            "--device: jax shows no GPU; install the extra cuda13 on a machine that has one, or use --device cpu"
        ) from None
    jax.config.update("jax_default_device", found)
    return f"cpu ({os.cpu_count()} cores)" if found.platform == "cpu" else f"{found.platform} ({found.device_kind})"


def first_line(name: str, device: str, data: str) -> str:
    """What every experiment prints first."""
    from importlib.metadata import version

    return f"{name} | device: {device} | jax {version('jax')} | data: {data}"
