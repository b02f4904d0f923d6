"""Figures: each is a PNG of a sensible size, the same numbers give the same bytes, and its text is what it says."""

import numpy as np
import pytest
from matplotlib import image as png
from matplotlib.figure import Figure

from cnn import figures
from cnn.evaluation import judge, reliability
from cnn.training import Epoch


def history(epochs: int) -> list[Epoch]:
    """So many epochs whose loss falls and whose accuracy rises."""
    return [Epoch(n, 1 / n, 1 - 0.5 / n, 1.2 / n, 1 - 0.6 / n, 1.0, None) for n in range(1, epochs + 1)]


def judged() -> dict:
    """Seven images, two of them wrong."""
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1, 1, 0])
    return judge(labels, np.eye(2)[predicted], ("benign", "malignant"), 1)


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """Collects every piece of text of the figures that a test saves."""
    collected = []
    save = Figure.savefig

    def collect(figure, path, **options):
        figure.canvas.draw()
        collected.extend(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", collect)
    return collected


def size(path) -> tuple[int, int]:
    """Height and width of a PNG, which must not be blank."""
    picture = png.imread(path)
    assert picture.std() > 0.01, f"{path.name} is blank"
    return picture.shape[:2]


def test_curves_have_titles_units_and_the_epoch_that_is_kept(tmp_path, texts):
    height, width = size(figures.curves(tmp_path / "c.png", history(5), best=4))
    assert (height, width) == (520, 1300)  # 4 x 10 inches of 130 points
    assert {"Loss", "Accuracy", "epoch", "cross-entropy (nats an image)", "accuracy (%)", "validation"} <= set(texts)
    assert "weights kept: epoch 4" in texts


def test_a_single_epoch_can_be_drawn(tmp_path):
    assert size(figures.curves(tmp_path / "c.png", history(1), best=1))


def test_a_confusion_matrix_says_counts_shares_and_rates_with_their_interval(tmp_path, texts):
    size(figures.confusion(tmp_path / "c.png", {"test": judged()}))
    assert {"3\n75%", "1\n25%", "2\n67%", "1\n33%"} <= set(texts)
    assert "Test: 7 images" in texts
    assert any("sensitivity 2/3 = 66.7% [20.8%, 93.9%]" in text for text in texts)


def test_a_gallery_shows_each_image_with_its_caption(tmp_path, texts):
    images = np.random.default_rng(0).integers(0, 255, (5, 12, 16, 3), np.uint8)
    size(figures.gallery(tmp_path / "g.png", images, [f"image {i}" for i in range(5)], "Five", columns=3))
    assert {"Five", "image 0", "image 4"} <= set(texts)


def test_a_gallery_of_nothing_says_so(tmp_path, texts):
    size(figures.gallery(tmp_path / "g.png", np.zeros((0, 12, 16, 3), np.uint8), [], "0 of 9 images"))
    assert "0 of 9 images" in texts


def test_attention_is_drawn_below_each_image_on_one_scale(tmp_path, texts):
    images = np.random.default_rng(0).integers(0, 255, (2, 12, 16, 3), np.uint8)
    shares = np.array([[[0.5, 1.5]], [[3.0, 0.0]]])
    size(figures.attention(tmp_path / "a.png", images, shares, ["first", "second"], "Where it looks"))
    assert {"first", "second", "Where it looks", "times the mean weight"} <= set(texts)


def test_the_scores_of_either_class_are_drawn(tmp_path, texts):
    positive = np.array([True, False, True])
    size(figures.scores(tmp_path / "s.png", positive, np.array([0.9, 0.2, 0.4]), "malignant", "3 images"))
    assert {"malignant", "not malignant", "probability of malignant according to the network"} <= set(texts)


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        figures.curves(tmp_path / name, history(3), best=2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_name_with_dollar_signs_is_no_formula(tmp_path):
    images = np.zeros((1, 12, 16, 3), np.uint8)
    images[0, :6] = 255
    assert size(figures.gallery(tmp_path / "g.png", images, ["a$\\no formula$"], "title"))  # a formula would not parse


def test_images_of_several_shapes_share_a_gallery(tmp_path, texts):
    rng = np.random.default_rng(0)
    images = [rng.random((12, 16, 3)), rng.random((9, 9, 3))]
    size(figures.gallery(tmp_path / "g.png", images, ["wide", "square"], "Two"))
    assert {"wide", "square"} <= set(texts)


def test_figures_with_intervals_stand_below_one_another(tmp_path, texts):
    judged = {name: {"value": v, "low": v - 0.1, "high": v + 0.1} for name, v in (("network", 0.9), ("white", 0.75))}
    size(figures.intervals(tmp_path / "i.png", {"by day": judged, "by image": judged}, "AUC", "Two methods", scale=1))
    assert {"network", "white", "0.9", "0.75", "AUC", "Two methods", "by day", "by image"} <= set(texts)
    size(figures.intervals(tmp_path / "i.png", {"": judged}, "accuracy (%)", "In percent"))
    assert {"90", "75"} <= set(texts)


def test_a_reliability_diagram_says_how_many_images_each_point_stands_for(tmp_path, texts):
    bins = reliability(np.array([False, True, True]), np.array([0.1, 0.9, 0.95]))
    size(figures.reliability(tmp_path / "r.png", bins, "Trust"))
    assert {"0/1", "2/2", "Trust", "as often as it says"} <= set(texts)


@pytest.fixture
def drawn_axes(monkeypatch) -> list:
    """The axes of what a test would save."""
    kept = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: kept.extend(figure.axes))
    return kept


def test_a_confusion_matrix_has_the_truth_in_rows_and_what_was_said_in_columns(drawn_axes, tmp_path):
    labels, said = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1, 1])  # one false alarm, none missed
    figures.confusion(tmp_path / "c.png", {"test": judge(labels, np.eye(2)[said], ("benign", "malignant"), 1)})
    (axes,) = drawn_axes
    cells = {text.get_position(): text.get_text().split("\n")[0] for text in axes.texts}  # (across, down)
    assert cells == {(0, 0): "2", (1, 0): "1", (0, 1): "0", (1, 1): "4"}
    assert (axes.get_xlabel().split("\n")[0], axes.get_ylabel()) == ("predicted class", "true class")


def test_each_curve_and_each_row_of_dots_is_what_it_is_called(drawn_axes, tmp_path):
    figures.curves(tmp_path / "c.png", [Epoch(1, 0.1, 0.2, 0.3, 0.4, 1.0, None)], best=1)
    figures.scores(tmp_path / "s.png", np.array([True, False]), np.array([0.9, 0.2]), "malignant", "")
    loss, accuracy, scores = drawn_axes
    assert [line.get_ydata()[0] for line in loss.lines[:2]] == [0.1, 0.3]
    assert [line.get_ydata()[0] for line in accuracy.lines[:2]] == pytest.approx([20, 40])
    assert [line.get_label()[:8] for line in loss.lines[:2]] == ["training", "validati"]
    dots = {dots.get_label(): dots.get_offsets()[0] for dots in scores.collections}
    assert (dots["malignant"][0], dots["not malignant"][0]) == (0.9, 0.2)
    assert (round(dots["malignant"][1]), round(dots["not malignant"][1])) == (1, 0)


def test_an_interval_reaches_from_low_to_high_and_a_bin_lies_at_what_it_says_and_what_is_found(drawn_axes, tmp_path):
    figures.intervals(tmp_path / "i.png", {"": {"network": {"value": 0.9, "low": 0.7, "high": 0.95}}}, "", "", scale=1)
    figures.reliability(
        tmp_path / "r.png", [{"said": 0.25, "k": 1, "n": 2, "value": 0.5, "low": 0.1, "high": 0.75}], ""
    )
    bars, trust = drawn_axes
    assert [list(line.get_xdata()) for line in bars.lines[:2]] == [[0.7, 0.95], [0.9]]
    (points, *_) = trust.containers[0]
    assert (points.get_xdata()[0], points.get_ydata()[0]) == (0.25, 0.5)
