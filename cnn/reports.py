"""A trained network and its images -> the files that every run leaves, and the table that it prints."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from cnn import evaluation, figures
from cnn.augment import Augmentation, compiled
from cnn.errors import counted
from cnn.loss import probabilities
from cnn.models import attention_map
from cnn.network import Network
from cnn.runs import write_csv, write_json
from cnn.slides import Slides
from cnn.stains import as_light
from cnn.training import Epoch, make_predictor
from cnn.weights import save_weights

RATES = ("accuracy", "sensitivity", "specificity", "ppv", "npv")


def predict(
    network: Network, parameters: nnx.State, images: np.ndarray, batch: int = 32, *, views: bool = False
) -> np.ndarray:
    """The probability of each class, (number, classes), for images (number, height, width, 3) uint8.

    `views`: see `training.make_predictor`.
    """
    logits = make_predictor(nnx.graphdef(network), batch, views=views)(parameters, images)
    return np.asarray(probabilities(jnp.asarray(logits)))


def write_report(
    folder: Path,
    network: Network,
    history: list[Epoch],
    best: Epoch,
    slides: Slides,
    parts: dict[str, np.ndarray],
    *,
    positive: str | None = None,
    batch: int = 32,
    per_epoch: int,
    views: bool = False,
    more: dict | None = None,
) -> dict:
    """Judges the best epoch's weights on every split, and writes metrics, history, predictions, weights and pictures.

    Args:
        folder: the run's, which exists.
        history: all epochs.
        best: the one whose weights are kept, with its parameters.
        parts: indices into `slides` by split: "training", "validation", "test".
        positive: the class that counts as positive; see `evaluation.positive_class`.
        per_epoch: images drawn an epoch, for the speed.
        views: see `training.make_predictor`.
        more: what else metrics.json is to hold.
    Returns:
        what metrics.json holds.
    """
    index = evaluation.positive_class(slides.classes, positive)
    predicted = predict(network, best.parameters, slides.images, batch, views=views)
    splits = {
        name: evaluation.judge(slides.labels[chosen], predicted[chosen], slides.classes, index)
        for name, chosen in parts.items()
    }
    seconds = sum(epoch.seconds for epoch in history)
    content = {
        "splits": splits,
        "best_epoch": best.number,
        "epochs": len(history),
        "seconds": round(seconds, 3),
        "images_per_second": round(per_epoch * len(history) / seconds, 1),
        **(more or {}),
    }
    columns = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
    write_csv(folder / "history.csv", columns, [(*epoch[:5], round(epoch.seconds, 3)) for epoch in history])
    write_predictions(folder / "predictions.csv", slides, parts, predicted, index)
    save_weights(folder / "weights.npz", best.parameters)
    figures.curves(folder / "curves.png", history, best.number)
    figures.confusion(folder / "confusion.png", splits)
    test = parts["test"]
    name = slides.classes[index]
    title = f"{counted(len(test), 'test image')}, their true class and what the network says"
    figures.scores(folder / "scores.png", slides.labels[test] == index, predicted[test, index], name, title)
    draw_mistakes(folder / "mistakes.png", slides, test, predicted)
    some = np.array(list(dict.fromkeys(some_of_each(slides, test).tolist())))  # each once
    captions = [image_caption(slides, i, predicted[i]) for i in some]
    draw_attention(folder / "attention.png", network, best.parameters, slides.images[some], captions)
    write_json(folder / "metrics.json", content)  # last: a run that has it is finished
    return content


def write_predictions(path: Path, slides: Slides, parts: dict, predicted: np.ndarray, positive: int) -> Path:
    """One row an image: name, group, true label, probability of the positive class, split."""
    rows = [
        (slides.names[i], slides.groups[i], slides.classes[slides.labels[i]], f"{predicted[i, positive]:.9g}", split)
        for split, chosen in parts.items()
        for i in chosen
    ]
    return write_csv(path, ("name", "group", "label", f"probability of {slides.classes[positive]}", "split"), rows)


def some_of_each(slides: Slides, chosen: np.ndarray) -> np.ndarray:
    """Of the `chosen` images some of every class: as many of each as make six, or one.

    Where a class has few, some come twice.
    """
    each = max(1, 6 // len(slides.classes))
    by_class = [chosen[slides.labels[chosen] == label] for label in range(len(slides.classes))]
    spread = [members[np.linspace(0, len(members) - 1, each).astype(int)] for members in by_class if len(members)]
    return np.concatenate(spread)


def draw_samples(
    path: Path, slides: Slides, chosen: np.ndarray, augmentation: Augmentation, batch: int, key: jax.Array
) -> Path:
    """A gallery of some of the `chosen` training images of every class, and below it what the network sees of them.

    They are augmented in batches of the size that training has, so that nothing is compiled for them alone.
    """
    some = slides.subset(some_of_each(slides, chosen))
    shown = np.tile(some.images, (3, 1, 1, 1))
    filled = np.resize(shown, (-(-len(shown) // batch) * batch, *shown.shape[1:]))
    keys = jax.random.split(key, len(filled) // batch)
    draw = compiled(augmentation)
    variants = [draw(one, filled[i * batch : (i + 1) * batch]) for i, one in enumerate(keys)]
    variants = np.concatenate(variants)[: len(shown)]
    captions = [f"{slides.classes[label]}\n{group}" for label, group in zip(some.labels, some.groups)]
    return figures.gallery(
        path,
        [*(some.images / 255), *variants],
        captions + ["augmented"] * len(variants),
        "Training images (top row), and what augmentation makes of them in three different epochs",
        columns=len(some),
    )


def shortened(name: str, most: int = 34) -> str:
    """The end of a name, which is where names differ, on one line of a caption."""
    return name if len(name) <= most else "..." + name[3 - most :]


def image_caption(slides: Slides, i: int, probability: np.ndarray) -> str:
    """Three lines: the name of image number i, its class, and the class that the network gives the most (classes,)."""
    said = f"said {slides.classes[probability.argmax()]}: {probability.max():.0%}"
    return f"{shortened(slides.names[i])}\ntruly {slides.classes[slides.labels[i]]}\n{said}"


def draw_mistakes(path: Path, slides: Slides, chosen: np.ndarray, predicted: np.ndarray, most: int = 24) -> Path:
    """A gallery of the images that confounded the network, the surest mistake first; of none, of the least sure."""
    wrong = chosen[evaluation.mistakes(slides.labels[chosen], predicted[chosen])]
    least_sure = chosen[np.argsort(predicted[chosen].max(axis=1), kind="stable")]
    shown = wrong[:most] if len(wrong) else least_sure[:12]
    which = f", the {most} surest" if len(wrong) > most else "" if len(wrong) else "; of these it was least sure"
    title = f"{len(wrong)} of {len(chosen)} test images confounded the network{which}"
    captions = [image_caption(slides, i, predicted[i]) for i in shown]
    return figures.gallery(path, slides.images[shown], captions, title)


def draw_attention(
    path: Path, network: Network, parameters: nnx.State, images: np.ndarray, captions: list[str]
) -> Path | None:
    """Where the network looks in images, (number, height, width, 3) uint8; None, and no picture, without attention."""
    graph = nnx.graphdef(network)

    @jax.jit  # one program; layer by layer they would be a hundred
    def look(parameters: nnx.State, images: jax.Array) -> jax.Array | None:
        return attention_map(nnx.merge(graph, parameters), as_light(images))

    weights = look(parameters, images)
    if weights is None:
        return None
    shares = np.asarray(weights) * weights.shape[1] * weights.shape[2]
    return figures.attention(path, images, shares, captions, "What counts: where the network looks")


def cell(figure: dict) -> str:
    """One figure with its k/n, if it is a rate, and its interval, for a table of rich."""
    if figure["value"] is None:
        return "-"
    counts = f"{figure['k']}/{figure['n']} = " if "k" in figure else ""
    return f"{counts}{figure['value']:.3f}\n[{figure['low']:.3f}, {figure['high']:.3f}]"


def judgement_table(splits: dict[str, dict]) -> Table:
    """Every rate of every split with its k/n and 95 % interval, for a terminal."""
    positive = next(iter(splits.values()))["positive"]
    table = Table(title=f"positive class: {positive}; 95 % intervals in brackets", title_justify="left")
    table.add_column("")
    for name, judged in splits.items():
        table.add_column(f"{name} ({judged['n']})", justify="right")

    for rate in (*RATES, "auc"):
        label = rate.upper() if rate in ("ppv", "npv", "auc") else rate
        table.add_row(label, *(cell(judged[rate]) for judged in splits.values()))
    return table


def print_files(console: Console, folder: Path) -> None:
    """The path of each file in a run's folder, one a line."""
    for path in sorted(folder.glob("[!.]*")):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
