"""Slides: a folder becomes arrays, what is wrong is told at once, and no group is ever split. Next: test_splits.py."""

import os
import re
import threading

import numpy as np
import pytest
import tifffile

from cnn import slides
from cnn.errors import ShapeError, UserError
from cnn.images import FILTERS, encode_jpeg, resize, write_png
from cnn.slides import Slides, read_folder, read_unlabelled, source_digest

ROWS = [0, 40, 80, 120], [10, 50, 90, 130]


def grey(rows: list) -> np.ndarray:
    """A grey picture, (height, width, 3) uint8."""
    return np.repeat(np.array(rows, np.uint8)[..., None], 3, axis=2)


def folder(root, *names: str):
    """`root` with a picture of its own under each relative name: the first is all 1, the second all 2, and so on."""
    for value, name in enumerate(names, 1):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(root / name, grey([[value, value]]))
    return root


def read(root, **options) -> Slides:
    return read_folder(root, size=(1, 2), **options)


@pytest.mark.parametrize(
    ("size", "options", "want"),
    [
        ((2, 4), {}, [*ROWS]),
        ((1, 2), {"filter": "box"}, [[25, 105]]),  # (0 + 40 + 10 + 50) / 4, (80 + 120 + 90 + 130) / 4
        ((1, 4), {"filter": "nearest"}, [ROWS[1]]),
        ((4, 4), {"fit": "pad"}, [[255] * 4, *ROWS, [255] * 4]),
        ((3, 4), {"fit": "pad", "fill": 7}, [*ROWS, [7] * 4]),  # the odd margin is below
        ((2, 5), {"fit": "pad"}, [[*ROWS[0], 255], [*ROWS[1], 255]]),  # and on the right
        ((4, 2), {"fit": "pad", "filter": "box"}, [[255] * 2, [25, 105], [255] * 2, [255] * 2]),
    ],
)
def test_a_picture_is_squashed_or_padded_to_size(size, options, want):
    np.testing.assert_array_equal(resize(grey([*ROWS]), size, **options), grey(want))


@pytest.mark.parametrize("filter", FILTERS)
def test_no_filter_changes_an_even_colour_or_loses_a_thin_picture(filter):
    thin = np.full((1, 500, 3), (9, 60, 200), np.uint8)
    np.testing.assert_array_equal(resize(thin, (7, 5), filter=filter), np.full((7, 5, 3), (9, 60, 200)))
    padded = resize(thin, (7, 5), fit="pad", filter=filter)
    np.testing.assert_array_equal(np.flatnonzero((padded == (9, 60, 200)).all(axis=(1, 2))), [3])  # the middle row


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((0, 3), {}, "image size (0, 3): give a height and a width, whole numbers of pixels from 1 to 20000"),
        ((3,), {}, "image size (3,): give a height"),
        ((2.5, 3), {}, "image size (2.5, 3): give a height"),
        ((3, 3), {"fit": "crop"}, "fit 'crop' is unknown; choose squash or pad"),
        ((3, 3), {"filter": "fast"}, "filter 'fast' is unknown; choose one of nearest, box, bilinear"),
    ],
)
def test_a_size_or_choice_that_cannot_be_obeyed_is_told_before_a_file_is_read(tmp_path, size, options, message):
    options = {"size": size, "fit": "squash", "filter": "box"} | options
    for use in (lambda: read_folder(tmp_path, **options), lambda: resize(grey([*ROWS]), **options)):
        with pytest.raises(UserError, match="^" + re.escape(message)):
            use()


def test_what_is_no_picture_is_not_resized_or_written(tmp_path):
    for write in (encode_jpeg, lambda image: resize(image, (2, 2)), lambda image: write_png(tmp_path / "a", image)):
        with pytest.raises(ShapeError, match=r"got \(2, 3\) float64, wants \(height, width, 3\) uint8"):
            write(np.zeros((2, 3)))


def test_sub_folders_are_classes_and_the_order_is_that_of_the_names(tmp_path, monkeypatch):
    folder(tmp_path, "tumour/b.png", "normal/x/y.PNG", "tumour/a.png", "normal/c.png", ".git/a.png", "tumour-2/d.png")
    for litter in ("notes.txt", "tumour/Thumbs.db", "tumour/._a.png"):
        (tmp_path / litter).write_text("no image")
    found = read(tmp_path)
    assert found.classes == ("normal", "tumour", "tumour-2")
    assert found.names == ("normal/c.png", "normal/x/y.PNG", "tumour-2/d.png", "tumour/a.png", "tumour/b.png")
    np.testing.assert_array_equal(found.labels, np.array([0, 0, 2, 1, 1], np.int32), strict=True)
    np.testing.assert_array_equal(found.images[:, 0, 0, 0], [4, 2, 6, 3, 1])
    assert found.images.shape == (5, 1, 2, 3)
    assert found.groups == found.names  # each image is its own group
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed(path)[::-1])
    assert source_digest(read(tmp_path)) == source_digest(found)


def test_ucsb_names_tell_class_and_group_and_a_pattern_overrules_them(tmp_path):
    names = ("ytma10_010704_malignant1_ccd.png", "ytma10_010704_benign1_ccd.png", "ytma9_010804_BENIGN12_ccd.png")
    found = read(folder(tmp_path, *names))
    assert (found.classes, found.labels.tolist()) == (("benign", "malignant"), [0, 1, 0])
    assert found.groups == ("ytma10_010704", "ytma10_010704", "ytma9_010804")
    assert read(tmp_path, group_pattern=r"ytma\d+").groups == ("ytma10", "ytma10", "ytma9")  # the whole match
    assert read(tmp_path, group_pattern=r"_\d\d(\d\d)").groups == ("07", "07", "08")  # what the parentheses hold


def test_the_ucsb_slides_are_58_images_in_10_groups(ucsb):
    found = read_folder(ucsb, size=(768, 896))
    assert len(found) == 58
    assert np.bincount(found.labels).tolist() == [32, 26]
    assert found.classes == ("benign", "malignant")
    assert len(set(found.groups)) == 10
    assert found.groups.count("ytma55_030603") == 6
    np.testing.assert_array_equal(found.images[-1], tifffile.imread(ucsb / found.names[-1]))


def test_copies_in_one_class_join_their_groups_through_any_number_of_steps(tmp_path):
    folder(tmp_path, "a/1_p3.png", "a/3_p2.png", "b/p1.png", "b/p4.png")
    for copy, original in (("2_p4", "1_p3"), ("4_p3", "3_p2")):  # so p4 goes with p3, and p3 with p2
        (tmp_path / f"a/{copy}.png").write_bytes((tmp_path / f"a/{original}.png").read_bytes())
    assert read(tmp_path, group_pattern=r"p\d").groups == ("p2", "p2", "p2", "p2", "p1", "p2")


FOLDERS = {
    "{}/absent: cannot be opened as a folder (No such file or directory); check its name": ("absent", []),
    "{}/a.png: cannot be opened as a folder (Not a directory); check its name": ("a.png", ["a.png"]),
    "{}: holds no image; give a folder with one sub-folder of TIFF, JPEG or PNG images a class": ("", []),
    "{}: holds one class only, 'a', and two are needed; give": ("", ["a/1.png", "a/b/2.png"]),
    "{}: holds one class only, 'benign', and two": ("", ["ytma1_010203_benign1_ccd.png"]),
    "{}/c: this class holds no image; fill the folder, or take it away": ("", ["a/1.png", "b/1.png", "c/.1.png"]),
    "{}: the name 'x.png' does not tell its class; give": ("", ["ytma1_010203_benign1_ccd.png", "x.png"]),
    "{}: holds images (x.png) beside folders of images (a); give": ("", ["a/1.png", "x.png"]),
    "{}: its folders (Test, train) are parts of a split, and no classes": ("", ["Test/a/1.png", "train/b/2.png"]),
}


@pytest.mark.parametrize("message", FOLDERS)
def test_what_is_wrong_with_a_folder_is_one_sentence_that_names_it(tmp_path, message):
    name, files = FOLDERS[message]
    folder(tmp_path, *files)
    with pytest.raises(UserError, match="^" + re.escape(message.format(tmp_path))):
        read(tmp_path / name)


PATTERNS = {
    "p(": "is not a regular expression (missing ), unterminated subpattern at position 1); correct it",
    r"p\d/x": "finds no group in 'a/p1/1.png'; correct it, or rename the file",
    "(x)?p": "finds no group in 'a/p1/1.png'",
    "p": "puts every image in one group, 'p'; correct it",
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_that_tells_no_groups_is_refused(tmp_path, pattern):
    with pytest.raises(UserError, match="^" + re.escape(f"group pattern {pattern!r} {PATTERNS[pattern]}")):
        read(folder(tmp_path, "a/p1/1.png", "b/p2/2.png"), group_pattern=pattern)


def test_all_bad_files_are_listed_in_one_error(tmp_path):
    folder(tmp_path, "a/good.png", "b/good.png")
    for i in range(23):
        (tmp_path / f"b/{i:02d}.tif").write_text("no picture")
    (tmp_path / "a/folder.png").mkdir()
    os.mkfifo(tmp_path / "a/pipe.jpg")
    (tmp_path / "a" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    (tmp_path / "a" / "\x1b[31m.png").write_bytes(b"")  # would turn a terminal red
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    lines = str(caught.value).split("\n")
    assert lines[0] == "27 of 29 files cannot be used as images:"
    assert lines[1] == rf"  {tmp_path}/a/\x1b[31m.png: has a name that cannot be printed; rename it"
    assert lines[2] == f"  {tmp_path}/a/folder.png: is a folder, not a file; rename it, or name a file"
    assert lines[3].startswith(f"  {tmp_path}/a/pipe.jpg: is a pipe")
    assert lines[4] == rf"  {tmp_path}/a/\udcff.png: has a name that cannot be printed; rename it"
    assert lines[5].startswith(f"  {tmp_path}/b/00.tif: is no TIFF, JPEG or PNG inside: it begins with b'no pictu'")
    assert (len(lines), lines[-1]) == (1 + 20 + 1, "  and 7 more")


def test_bad_files_are_left_out_and_told_if_one_asks_for_it(tmp_path):
    root = folder(tmp_path / "in", "a/1.png", "a/2.png", "b/3.png", "b/4.png")
    (root / "a" / "1.png").write_text("no picture")
    (root / "b" / "broken.png").write_bytes((root / "b" / "3.png").read_bytes()[:40])
    skipped = []
    data = read(root, skipped=skipped)
    assert data.names == ("a/2.png", "b/3.png", "b/4.png")
    assert data.images[:, 0, 0, 0].tolist() == [2, 3, 4], "each image still under its own name"
    assert data.groups == data.names
    assert [error.path for error in skipped] == [str(root / "a" / "1.png"), str(root / "b" / "broken.png")]
    (root / "a" / "2.png").unlink()
    with pytest.raises(UserError, match="every image of the class 'a' is bad; leave out --skip-bad to see why"):
        read(root, skipped=[])


def test_the_same_picture_in_two_classes_is_refused_by_both_names(tmp_path):
    folder(tmp_path, "a/1.png", "b/2.png")
    tifffile.imwrite(tmp_path / "b/3.tif", grey([[1, 1]]), photometric="rgb")  # other bytes, the pixels of a/1.png
    with pytest.raises(UserError, match=r"^a/1\.png and b/3\.tif are the same picture in two classes; keep the right"):
        read(tmp_path)


def test_links_are_followed_and_never_in_a_circle(tmp_path):
    folder(tmp_path, "elsewhere/1.png", "elsewhere/deep/2.png", "data/b/3.png", "4.png")
    (tmp_path / "data/a").symlink_to("../elsewhere")
    (tmp_path / "data/b/link.png").symlink_to("../../4.png")
    (tmp_path / "elsewhere/deep/round").symlink_to("..")
    (tmp_path / "data/b/up").symlink_to(".")
    assert read(tmp_path / "data").names == ("a/1.png", "a/deep/2.png", "b/3.png", "b/link.png")


def test_progress_is_told_in_the_calling_thread_and_a_defect_is_not_swallowed(tmp_path, monkeypatch):
    folder(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    told = []
    read(tmp_path, progress=lambda done, total: told.append((done, total, threading.get_ident())), threads=3)
    assert told == [(i, 3, threading.get_ident()) for i in (1, 2, 3)]
    monkeypatch.setattr(slides, "decode_image", lambda data, path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read(tmp_path)


def test_images_without_labels_come_from_files_and_folders_in_order(tmp_path, monkeypatch):
    folder(tmp_path, "many/b.png", "many/a/c.png", "one.png", "._x.png")
    monkeypatch.chdir(tmp_path)
    options = {"size": (1, 2), "fit": "squash", "filter": "box"}
    found, names = read_unlabelled(["one.png", "many", "./one.png"], **options)
    assert names == ("one.png", "many/a/c.png", "many/b.png")
    np.testing.assert_array_equal(found[:, 0, 0, 0], [3, 2, 1])
    (tmp_path / "empty").mkdir()
    for paths, message in {
        (): "no image is named; name TIFF",
        ("one.png", "empty"): "empty: holds no image; name TIFF",
        ("one.png", "absent.png"): "1 of 2 files cannot be used as images:\n  absent.png: cannot be opened",
    }.items():
        with pytest.raises(UserError, match="^" + re.escape(message)):
            read_unlabelled(paths, **options)


def test_bad_files_without_labels_are_left_out_where_that_is_asked_for(tmp_path):
    folder(tmp_path, "1.png", "3.png")
    (tmp_path / "2.gif").write_bytes(b"GIF89a")
    options, skipped = {"size": (1, 2), "fit": "squash", "filter": "box"}, []
    images, names = read_unlabelled([tmp_path], **options, skipped=skipped)
    assert [name[-5:] for name in names] == ["1.png", "3.png"]
    assert images[:, 0, 0, 0].tolist() == [1, 2]
    assert [str(error).startswith(str(tmp_path / "2.gif")) for error in skipped] == [True]
    with pytest.raises(UserError, match="1 of 1 files cannot be used"):
        read_unlabelled([tmp_path / "2.gif"], **options, skipped=[])


def test_images_are_fitted_and_filtered_as_asked_with_labels_or_without(tmp_path):
    for i, name in enumerate(("a/1.png", "b/2.png")):
        (tmp_path / name).parent.mkdir()
        write_png(tmp_path / name, grey([*ROWS]) + np.uint8(i))
    padded = {"size": (4, 4), "fit": "pad", "filter": "box"}, [[255] * 4, *ROWS, [255] * 4]
    squashed = {"size": (1, 4), "fit": "squash", "filter": "nearest"}, [ROWS[1]]
    for options, want in (padded, squashed):
        for image in (read_folder(tmp_path, **options).images[0], read_unlabelled([tmp_path / "a"], **options)[0][0]):
            np.testing.assert_array_equal(image, grey(want))
    assert resize(grey([[0, 100]]), (1, 4))[0, :, 0].tolist() == [0, 25, 75, 100], "bilinear unless told otherwise"


def test_ucsb_names_in_sub_folders_tell_their_group_too_whatever_their_case(tmp_path):
    names = ("b/ytma1_010203_benign1_ccd.png", "m/YTMA1_010203_malignant1_ccd.png", "m/x.png")
    assert read(folder(tmp_path, *names)).groups == ("ytma1_010203", "ytma1_010203", "m/x.png")


@pytest.mark.parametrize("part", ["train", "training", "val", "valid", "validation", "test", "testing"])
def test_parts_of_a_split_are_no_classes(tmp_path, part):
    with pytest.raises(UserError, match="are parts of a split"):
        read(folder(tmp_path, f"{part}/1.png", "Test/2.png", "TRAIN/3.png"))


def test_pictures_that_differ_in_shape_alone_are_no_copies_and_what_a_system_adds_is_no_image(tmp_path):
    folder(tmp_path, "a/1.png", "b/2.png", "a/@eaDir/1.png/THUMB.png", "__MACOSX/a/3.png")
    write_png(tmp_path / "b/3.png", grey([[1], [1]]))  # a/1.png is one row of two such pixels
    assert read(tmp_path).names == ("a/1.png", "b/2.png", "b/3.png")


def drawn(labels: str, groups: str) -> Slides:
    """One image a letter: its class and its group."""
    classes = tuple(sorted(set(labels)))
    images = np.arange(len(labels), dtype=np.uint32)[:, None, None].repeat(3, 1).view(np.uint8).reshape(-1, 2, 2, 3)
    names = tuple(str(i) for i in range(len(labels)))
    return Slides(images, np.array([classes.index(c) for c in labels], np.int32), tuple(groups), names, classes)


def test_the_digest_changes_with_every_part_of_the_data():
    one = drawn("aabb", "xyzz")
    others = [drawn("abbb", "xyzz"), drawn("aacc", "xyzz"), drawn("aabb", "xyyz"), one.subset(np.array([1, 0, 2, 3]))]
    others.append(Slides(one.images[:, ::-1], one.labels, one.groups, one.names, one.classes))
    others.append(Slides(one.images, one.labels, one.groups, tuple("pqrs"), one.classes))
    assert source_digest(one) == source_digest(drawn("aabb", "xyzz"))
    assert len({source_digest(other) for other in (one, *others)}) == 7
