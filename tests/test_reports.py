"""What a run prints and writes: the table of a network, a line an epoch, the table of figures, and their files."""

import io

import numpy as np
import pytest
from rich.console import Console

from cnn import fitting, progress, reports
from cnn.augment import named
from cnn.evaluation import judge
from cnn.models import Row
from cnn.optimizer import make_optimizer
from cnn.slides import Slides
from cnn.training import Epoch
from tests.test_training import pictures, tiny_network


def printed(*things: object, terminal: bool = False) -> str:
    """What a console of 100 columns shows."""
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def trained(patience: int | None, epochs: int = 4, **options) -> tuple[list[Epoch], Epoch, str]:
    """History and kept epoch of a short training, and what it printed."""
    console, data = Console(file=io.StringIO(), width=100), pictures(8)
    settings = {"batch": 4, "optimizer": make_optimizer(1), "augmentation": named("none"), "seed": 0} | options
    history, kept = fitting.fit(console, tiny_network(), data, data, epochs=epochs, patience=patience, **settings)
    return history, kept, console.file.getvalue()


def test_the_table_of_a_network_ends_in_the_sum_of_its_parameters():
    rows = [Row("convolution 3 x 3 x 2", (4, 5, 2), 1056, 3), Row("flatten", (40,), 0, None)]
    text = printed(progress.network_table(rows, "the network"))
    assert "4 x 5 x 2" in text
    assert "1,056" in text
    assert "3 x 3" in text
    assert [line.split()[1] for line in text.splitlines() if "total" in line] == ["total"]
    assert text.count("1,056") == 2  # the layer's, and the total


def test_an_epoch_is_one_line_with_its_loss_accuracy_speed_and_a_star_for_the_best():
    epoch = Epoch(3, 0.5, 0.75, 0.25, 0.875, 2.0, None, None)
    line = progress.epoch_line(epoch, 20, 320, best=True)
    assert line == "epoch   3/20: loss 0.500, accuracy 0.750; validation 0.250, 0.875 *   2.0 s, 160 images/s"
    assert "*" not in progress.epoch_line(epoch, 20, 320, best=False)


def test_training_stops_early_and_keeps_the_epoch_with_the_lowest_validation_loss():
    # with a learning rate of 0 the first epoch stays the best
    history, kept, text = trained(patience=2, optimizer=make_optimizer(1, learning_rate=0.0))
    assert (len(history), kept.number) == (3, 1)
    assert "stopped: no lower validation loss for 2 epochs" in text
    assert kept.parameters is not None
    assert all(epoch.parameters is None for epoch in history), "a copy of the weights for every epoch fills the memory"


def test_without_patience_the_last_epoch_is_kept():
    history, kept, text = trained(patience=None, optimizer=make_optimizer(1, learning_rate=0.0))
    assert (len(history), kept.number) == (4, 4)
    assert "stopped" not in text


def test_a_bar_is_shown_on_a_terminal_and_not_in_a_file():
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=100, force_terminal=terminal)
        with progress.bar(console, "reading", 4) as advance:
            advance(2, 4, "a note")
        assert ("reading" in console.file.getvalue()) == terminal


def test_what_is_no_terminal_gets_a_line_a_minute_with_the_time_left(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", iter([0, 20, 70, 100, 140]).__next__)  # seconds
    console = Console(file=io.StringIO(), width=100)
    with progress.bar(console, "networks", 8) as advance:
        for done in (1, 2, 3, 4):  # the first was there before
            advance(done, 8)
    # at 70 s one took 70 s, so 6 * 70 s are left; at 100 s it is too early; at 140 s 4 * 140 / 3 s are left
    assert console.file.getvalue().splitlines() == [
        "networks: 2 of 8, about 7 min left",
        "networks: 4 of 8, about 3 min left",
    ]


def test_a_terminal_shows_loss_accuracy_and_images_a_second_while_it_trains(monkeypatch):
    monkeypatch.setattr(fitting.time, "perf_counter", iter(range(10_000)).__next__)  # a second at every look
    console, data = Console(file=io.StringIO(), width=120, force_terminal=True), pictures(8)
    options = {"batch": 4, "optimizer": make_optimizer(1), "augmentation": named("none"), "seed": 0}
    fitting.fit(console, tiny_network(), data, data, epochs=2, patience=None, **options)
    text = console.file.getvalue()
    assert "training" in text
    assert "images/s" in text


def judged(labels: list[int], predicted: list[int]) -> dict:
    """Figures of a few images of two classes."""
    return judge(np.array(labels), np.eye(2)[predicted], ("benign", "malignant"), 1)


def test_the_table_of_figures_gives_each_rate_with_its_count_and_interval():
    text = printed(reports.judgement_table({"test": judged([0, 0, 1, 1], [0, 1, 1, 1])}))
    assert "positive class: malignant" in text
    assert "test (4)" in text
    assert "3/4 = 0.750" in text  # accuracy
    assert "2/2 = 1.000" in text  # sensitivity
    assert "1/2 = 0.500" in text  # specificity
    assert "2/3 = 0.667" in text  # PPV
    assert "[0.301, 0.954]" in text  # Wilson's interval of 3 of 4


def test_a_rate_of_nothing_is_a_dash():
    text = printed(reports.judgement_table({"test": judged([0, 0], [0, 0])}))
    assert [line.split()[-2] for line in text.splitlines() if "sensitivity" in line] == ["-"]


def test_a_long_name_keeps_its_end():
    assert reports.shortened("short.tif") == "short.tif"
    got = reports.shortened("a/very/long/path/to/an/image/of/some/tissue-0001.tif")
    assert (len(got), got[:3], got[-8:]) == (34, "...", "0001.tif")


@pytest.mark.parametrize("wrong", [0, 3])
def test_the_gallery_shows_the_images_that_confounded_the_network_or_else_nearly_did(tmp_path, monkeypatch, wrong):
    drawn = {}

    def gallery(path, images, captions, title):
        drawn.update(images=images, captions=captions, title=title)
        return path

    monkeypatch.setattr(reports.figures, "gallery", gallery)
    labels = np.zeros(5, np.int32)
    names = tuple(f"benign/{i}.png" for i in range(5))
    slides = Slides(np.zeros((5, 4, 6, 3), np.uint8), labels, names, names, ("benign", "malignant"))
    p = np.where(np.arange(5) < wrong, 0.6 + 0.1 * np.arange(5), 0.1 + 0.05 * np.arange(5))
    reports.draw_mistakes(tmp_path / "m.png", slides, np.arange(5), np.stack([1 - p, p], axis=1))
    if wrong:  # the surest mistake first: image 2 with 0.8
        assert drawn["title"] == "3 of 5 test images confounded the network"
        assert len(drawn["images"]) == 3
        assert drawn["captions"][0] == "benign/2.png\ntruly benign\nsaid malignant: 80%"
    else:  # those that came closest: image 4 with 0.3
        assert drawn["title"] == "0 of 5 test images confounded the network; of these it was least sure"
        assert drawn["captions"][0] == "benign/4.png\ntruly benign\nsaid benign: 70%"


def test_without_validation_an_epoch_says_nothing_of_it():
    line = progress.epoch_line(Epoch(3, 0.5, 0.75, float("nan"), float("nan"), 2.0, None), 20, 320, best=True)
    assert line == "epoch   3/20: loss 0.500, accuracy 0.750;   2.0 s, 160 images/s"
