"""The recipe: what is said of slides before a network learns from them."""

import pytest

from cnn import progress
from cnn.recipe import note_on_groups
from tests.test_slides import drawn


@pytest.mark.parametrize(("groups", "told"), [("0123", True), ("0023", True), ("xx23", False)])
def test_it_is_said_if_nothing_tells_the_patients_apart_though_there_be_copies_of_a_picture(groups, told, capsys):
    note_on_groups(drawn("abab", groups), progress.terminal())  # the images are named 0 to 3
    assert ("every image is taken for a group of its own" in " ".join(capsys.readouterr().out.split())) == told
