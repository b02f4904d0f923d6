"""The house rules, read off the code: the order of the files, who may import what, and what a docstring must say."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for path in (ROOT / "cnn").glob("*.py") if path.name != "__init__.py")
EXPERIMENTS = sorted(path for path in (ROOT / "experiments").rglob("*.py") if path.name != "__init__.py")
ALL = [*FILES, *EXPERIMENTS, *sorted((ROOT / "tests").glob("*.py"))]
OWNERS = {  # a library, and the only file of cnn/ that may know it
    "PIL": "images.py",
    "tifffile": "images.py",
    "matplotlib": "figures.py",
    "orbax": "checkpoints.py",
    "tyro": "command_line.py",
}


def reading_list() -> list[str]:
    """The files of cnn/ in the order of the README's reading list."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\s*\d+\. \[`(\w+\.py)`\]\(cnn/\w+\.py\)", text, flags=re.MULTILINE)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, with `from cnn import a` as cnn.a."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" if node.module == "cnn" else node.module for alias in node.names}
    return found


def public_functions(path: Path):
    """The functions at the top level of a file whose names begin with a letter."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]


def test_the_reading_list_of_the_readme_is_the_list_of_files():
    assert sorted(reading_list()) == [path.name for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_imports_only_files_that_come_before_it_in_the_reading_list(path):
    order = reading_list()
    earlier = {f"cnn.{name[:-3]}" for name in order[: order.index(path.name)]}
    ours = {name for name in imports(path) if name.startswith(("cnn", "experiments", "tests"))}
    assert ours <= earlier, f"{path.name} imports {sorted(ours - earlier)}, which a reader has not met yet"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_library_is_known_to_its_own_file_only(path):
    for library, owner in OWNERS.items():
        users = {name for name in imports(path) if name.split(".")[0] == library}
        assert not users or path.name == owner, f"{path.name} imports {library}, which only {owner} may know"


def test_an_experiment_reaches_libraries_that_have_an_owner_through_it():
    for path in EXPERIMENTS:
        libraries = {name.split(".")[0] for name in imports(path)}
        assert not libraries & OWNERS.keys(), f"{path.name} imports {libraries & OWNERS.keys()}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_a_file_is_at_most_300_lines_of_at_most_120_characters(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300, f"{path.name} has {len(lines)} lines: is it still one idea?"
    assert max(map(len, lines), default=0) <= 120


@pytest.mark.parametrize("path", [*FILES, *EXPERIMENTS], ids=lambda path: path.name)
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} does not say what it is about"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


SHAPED = ["convolution", "fast_convolution", "pooling", "dense", "loss", "layers", "geometry", "appearance"]


@pytest.mark.parametrize("name", SHAPED)
def test_docstrings_of_operations_on_arrays_say_shapes(name):
    about_shapes = re.compile(r"\((batch|height|kernel_height|in_features|3, 3|2 \*|\w+, classes)|any shape|those of `")
    for node in public_functions(ROOT / "cnn" / f"{name}.py"):
        arrays = [a for a in node.args.args if a.annotation and "Array" in ast.unparse(a.annotation)]
        described = about_shapes.search(ast.get_docstring(node) or "")
        random = node.name.startswith("random_")  # its contract stands once, on top of the file
        assert not arrays or described or random, f"{name}.{node.name} does not say its shapes"


def test_no_layer_is_borrowed():
    borrowed = re.compile(r"nnx\.(Conv|Linear|Dropout|max_pool|avg_pool|BatchNorm|LayerNorm)\b")
    for path in FILES:
        assert not borrowed.search(path.read_text(encoding="utf-8")), f"{path.name} uses a layer that is not ours"


def test_nothing_that_is_loaded_can_run_code():
    dangerous = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}
    for path in [*FILES, *EXPERIMENTS]:
        assert not {name.split(".")[0] for name in imports(path)} & dangerous, path.name
        assert "allow_pickle=True" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", ["geometry.py", "appearance.py"])
def test_a_random_function_takes_the_key_first_then_the_image_then_options_by_name(name):
    functions = [node for node in public_functions(ROOT / "cnn" / name) if node.name.startswith("random_")]
    assert functions, f"{name} has no random function"
    for node in functions:
        assert [argument.arg for argument in node.args.args] == ["key", "image"], node.name
        assert node.args.kwonlyargs, f"{node.name} has no options by name"


def test_the_chapters_of_the_tests_follow_one_another_in_the_order_of_the_reading_list():
    chapter, read = "test_windows.py", []
    while chapter not in read:
        read.append(chapter)
        text = ast.get_docstring(ast.parse((ROOT / "tests" / chapter).read_text(encoding="utf-8")))
        following = re.search(r"Next: (test_\w+\.py)\.", text)
        chapter = following[1] if following else chapter
    assert read[-1] == "test_the_blog.py", f"after {read[-1]} no chapter is named"
    order = [f"test_{name}" for name in reading_list()]
    mirrored = [name for name in read if name in order]
    assert mirrored == sorted(mirrored, key=order.index)
    assert len(mirrored) >= 20


def test_no_name_says_nothing():
    for path in ALL:
        assert not re.search(r"util|helper|common|misc", path.stem), path.name


def test_every_test_is_a_sentence_and_asserts_something():
    for path in (ROOT / "tests").glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{path.name} does not say which chapter it is"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert node.name.count("_") >= 3, f"{path.name}: {node.name} is no sentence"
                body = ast.unparse(node)
                assert re.search(r"\bassert|raises\(|check_", body), f"{path.name}: {node.name} cannot fail"
