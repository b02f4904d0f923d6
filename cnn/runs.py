"""One run, one folder: what was asked for, what came out, and enough about the machine to do it again."""

import csv
import dataclasses
import datetime
import itertools
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from cnn.errors import UserError
from cnn.files import whole


def check_new(out: Path | None) -> None:
    """Raises UserError if `out` exists already or cannot be made: to be called before hours of work, not after them."""
    if out is None:
        return
    if not str(out).isprintable():
        raise UserError("--out: the name has characters that cannot be printed; name another folder")
    if os.path.lexists(out):  # False where one may not look; `create_folder` then says why
        raise UserError(f"--out: {out} exists already, and a run never overwrites another; name a new one")
    above = next(parent for parent in out.absolute().parents if os.path.lexists(parent))
    if not os.path.isdir(above):
        raise UserError(f"--out: {out} cannot be made, since {above} is no folder; name another")
    if not os.access(above, os.W_OK):
        raise UserError(f"--out: {out} cannot be made, since {above} may not be written to; name another")


def create_folder(name: str, out: Path | None) -> Path:
    """Makes the folder of a run, `runs/NAME-DATE-TIME` unless `out` is given; never one that exists.

    Raises:
        UserError: if it exists already or cannot be made.
    """
    check_new(out)
    wanted = out or Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except OSError as error:
            if out is None and isinstance(error, FileExistsError) and folder.is_dir():
                continue  # another was begun in the same second
            raise UserError(f"--out: {folder} cannot be made ({error.strerror}); name another") from None


def git_commit() -> str | None:
    """The commit that this code was checked out from, with "+changes" if it was changed since; None outside git."""

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails if it only lies in somebody else's repository
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--", ".", "../experiments") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def environment(device: str) -> dict:
    """What a figure depends on besides the settings: device, versions, processors, commit."""
    packages = (
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "scipy",
        "scikit-learn",
        "pillow",
        "tifffile",
    )
    return {
        "device": device,
        "processors": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "commit": git_commit(),
    }


def as_json(content: object) -> str:
    """JSON, two spaces deep; dataclasses and paths are written as what they hold."""

    def plain(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        if isinstance(value, Path):
            return str(value)
        raise TypeError(f"{type(value).__name__} has no JSON form here")

    return json.dumps(content, indent=2, default=plain, ensure_ascii=False) + "\n"


def write_json(path: Path, content: object) -> Path:
    """Writes `as_json(content)` to a file."""
    with whole(path, encoding="utf-8") as file:
        file.write(as_json(content))
    return path


def write_config(folder: Path, experiment: str, settings: object, device: str, **more: object) -> Path:
    """Writes config.json: what a run was asked for, and on what it runs."""
    content = {"experiment": experiment, "settings": settings, **more, **environment(device)}
    return write_json(folder / "config.json", content)


def read_config(folder: Path, *needed: str) -> dict:
    """The config.json of a run.

    Raises:
        UserError: if the folder holds none, or a damaged one, or one without the entries that are needed.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{folder}: holds no config.json; give the folder of a run") from None
    except ValueError:
        config = None
    if not isinstance(config, dict) or not config.keys() >= set(needed):
        raise UserError(f"{path}: is damaged, or of another version of this project; give the folder of another run")
    return config


def write_csv(path: Path, columns: tuple[str, ...], rows: list[tuple]) -> Path:
    """Writes a table, a row of names first."""
    with whole(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path
