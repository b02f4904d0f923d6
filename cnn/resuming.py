"""Going on with a run that was interrupted: with its own settings, on its own images, and never two at a time.

`settings` is a frozen dataclass with a field for each option of the command line (`command_line.py`). Its `resume` is
the folder to go on in; its `allow_change`, which only a training has, names the options that may differ from then on.
"""

import dataclasses
import errno
import json
import os
import shlex
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cnn.errors import ImageError, UserError, counted
from cnn.runs import as_json, create_folder, read_config, write_config, write_csv, write_json

S = TypeVar("S")
# What may always be other than before: how and where a run is carried on, not what it is.
OF_THE_MOMENT = ("resume", "allow_change", "out", "device", "jobs", "cache", "save_every", "debug_nans")
# What a training may change on its way, if it is said. Nothing else: neither what a step sees nor what the network is.
CHANGEABLE = ("data", "epochs", "patience", "learning_rate", "schedule", "weight_decay", "augmentation")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def own_settings(experiment: str, settings: S) -> S:
    """The settings of the run that `settings.resume` names, so that nothing has to be given again.

    What is given all the same, and is not what the run was begun with, is refused, unless `settings.allow_change` names
    it: then it is taken, and is the run's own from now on. A setting that has its default counts as not given, unless
    it is named there.

    Raises:
        UserError: listing each setting that differs, or naming what cannot change at all; if it is a run of another
            experiment; or if its images are not where they were.
    """
    allowed = {name.replace("-", "_") for name in getattr(settings, "allow_change", ())}
    if settings.resume is None:
        if allowed:
            raise UserError("--allow-change: is for a run that goes on; give --resume too, or leave it out")
        return settings
    if settings.out is not None:
        raise UserError("--out: a run that goes on writes to its own folder; leave --out or --resume out")
    if fixed := sorted(allowed - set(CHANGEABLE)):
        changeable = ", ".join(CHANGEABLE).replace("_", "-")
        raise UserError(f"--allow-change: {fixed[0]} cannot change; only {changeable} can; begin a new run instead")
    config = read_config(settings.resume)
    if config.get("experiment") != experiment:
        other = config.get("experiment", "something else")
        raise UserError(
            f"--resume: {settings.resume} is a run of {other}, not of {experiment}; name one that {experiment} wrote"
        )
    then = read_config(settings.resume, "settings", "data_digest")["settings"]
    hints = typing.get_type_hints(type(settings))
    changes, differences = {}, []
    for field in dataclasses.fields(settings):
        name, now = field.name, getattr(settings, field.name)
        if name in OF_THE_MOMENT or name not in then:
            continue
        was, given = then[name], now != field.default or name in allowed - {"data"}
        if given and json.loads(as_json(now)) != was:
            if name not in allowed and name != "data":  # a folder may have moved: its images are compared
                differences.append(f"{_option(name)} was {_as_written(was)} and is {_as_written(now)}")
        else:
            changes[name] = _as_typed(was, hints[name])
    if differences:
        raise UserError(
            f"{settings.resume}: was begun with other settings: {'; '.join(differences)}; leave them out, or begin "
            "a new run; what a training may change on its way, --allow-change says"
        )
    if (data := changes.get("data")) and not data.exists():
        raise UserError(f"--resume: {settings.resume} was begun on {data}, which is not there; say where, with --data")
    return dataclasses.replace(settings, **changes)


def _as_written(value: object) -> str:
    """A setting as one writes it on the command line."""
    if value is None:
        return "not given"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _as_typed(value: object, hint: object) -> object:
    """What JSON made a list or a string of, as a tuple or a path again."""
    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if isinstance(value, str) and Path in alternatives else value


def check_images(settings: object, data_digest: str) -> None:
    """Raises UserError if a run was begun on other images, and `settings.allow_change` does not hold "data"."""
    if settings.resume is None or "data" in getattr(settings, "allow_change", ()):
        return
    if read_config(settings.resume)["data_digest"] != data_digest:
        or_else = "go on with these by --allow-change data, or " if hasattr(settings, "allow_change") else ""
        raise UserError(
            f"{settings.resume}: was begun on other images, labels or groups than {settings.data or 'those drawn'}; "
            f"give the same, {or_else or 'or '}begin a new run"
        )


def begin_or_resume(
    name: str, settings: object, device: str, *, data_digest: str, skipped: list[ImageError] = (), **more: object
) -> Path:
    """A new folder with its config.json, or `settings.resume`, if that run was begun on the same images.

    Args:
        settings: of the run to go on with, where there is one: see `own_settings`.
        data_digest: see `slides.source_digest`.
        skipped: the bad files that were left out, told of in a new folder (of one that goes on: see `tell_skipped`).
        more: further entries for config.json.
    Raises:
        UserError: as `check_images`; or if the classes of the images differ.
    """
    if settings.resume is None:
        folder = create_folder(name, settings.out)
        write_config(folder, name, settings, device, data_digest=data_digest, **more)
        tell_skipped(folder, skipped)
        return folder
    check_images(settings, data_digest)
    fixed = [key for key in ("network", "positive") if key in more]
    config = read_config(settings.resume, *fixed)
    for key in fixed:
        if (now := json.loads(as_json(more[key]))) != config[key]:
            raise UserError(f"{settings.resume}: its {key} was {config[key]} and would be {now}; begin a new run")
    return settings.resume


def tell_skipped(folder: Path, skipped: list[ImageError]) -> None:
    """Lists the bad files that were left out in the run's folder, and says how many they are; without any, no list."""
    (folder / "skipped.csv").unlink(missing_ok=True)  # one of before, whose files may have been mended
    if skipped:
        rows = [(error.path, error.reason, error.remedy) for error in skipped]
        path = write_csv(folder / "skipped.csv", ("file", "reason", "remedy"), rows)
        print(f"left out {counted(len(skipped), 'bad file')}: see {path}", flush=True)


def note_changes(settings: object, data_digest: str, **more: object) -> None:
    """Writes into config.json what `settings.allow_change` has changed: it is the run's own from now on. So is `more`.

    Call it once the folder is this process's own: another that is at work in it goes on with what it was begun with.
    """
    if settings.resume is None:
        return
    config = read_config(settings.resume)
    changed = json.loads(as_json(dataclasses.replace(settings, resume=None))) | {
        name: config["settings"][name] for name in OF_THE_MOMENT if name in config["settings"]
    }
    if changed != config["settings"] or data_digest != config["data_digest"]:
        write_json(settings.resume / "config.json", config | more | {"settings": changed, "data_digest": data_digest})


def how_to_go_on(name: str, settings: object, folder: Path) -> str:
    """The command that goes on with a run as it is being carried out: on that device, with so many jobs."""
    command = f"python -m experiments.{name} --resume {shlex.quote(str(folder))}"
    for name, default in (
        ("device", "auto"),
        ("jobs", 1),
        ("cache", None),
        ("save_every", 30.0),
        ("debug_nans", False),
    ):
        if (value := getattr(settings, name, default)) != default:
            command += f" {_option(name)}" + ("" if value is True else f" {shlex.quote(str(value))}")
    return command


def check_unfinished(settings: object) -> None:
    """Raises UserError if the run that `settings.resume` names has come to its end, unless it may get more epochs."""
    finished = settings.resume is not None and (settings.resume / "metrics.json").exists()
    if finished and "epochs" not in settings.allow_change:
        use = f"use it with python -m experiments.predict {shlex.quote(str(settings.resume))} IMAGE..."
        raise UserError(
            f"--resume: {settings.resume} is finished; {use}, or give it --epochs and --allow-change epochs"
        )


def unfinish(folder: Path) -> None:
    """Takes the mark of a finished run, metrics.json, from one that gets more epochs; it stays as metrics-before.json.

    Else the run, interrupted once more, would be refused as finished, though its epochs are not done.
    """
    if (folder / "metrics.json").exists():
        os.replace(folder / "metrics.json", folder / "metrics-before.json")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keeps a run's folder for this process; the lock goes when the process does, however it ends.

    Raises:
        UserError: if another process has it, which goes on unharmed; or if nothing can be written or locked there.
    """
    try:
        file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); change its permissions") from None
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise UserError(
                    f"{folder}: cannot be kept from other processes ({error.strerror}); give --out on a local disk, or "
                    "copy the run there"
                ) from None
            file.seek(0)
            owner = file.read().strip() or "of unknown number"
            raise UserError(f"{folder}: process {owner} is at work in it; wait for it, or stop it") from None
        file.truncate(0)
        file.write(f"{os.getpid()}")
        file.flush()
        yield


def _lock(file: typing.TextIO) -> None:
    """Raises OSError if another process has locked the file."""
    if os.name == "nt":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
