"""The errors that a user can cause: each is one sentence that says where, what is wrong, and what to do.

An experiment that is started from a terminal prints the sentence and exits with status 2 (see `command_line.py`).
Anything else that is raised is a defect of this project, and keeps its traceback.
"""


class UserError(Exception):
    """Something the user gave cannot be used; the message is a sentence made for reading."""


class ShapeError(UserError, ValueError):
    """An array does not have the shape that a layer needs: names the layer, what it got and what it wants."""

    def __init__(self, layer: str, got: object, want: str):
        super().__init__(f"{layer}: got {got}, wants {want}")
        self.layer, self.got_and_want = layer, (got, want)

    def __reduce__(self):
        return type(self), (self.layer, *self.got_and_want)  # from one process to another, as in `jobs.py`


class ImageError(UserError):
    """A file cannot be used as an image: names the file, the reason and the remedy."""

    def __init__(self, path: object, reason: str, remedy: str):
        super().__init__(f"{path}: {reason}; {remedy}")
        self.path, self.reason, self.remedy = str(path), reason, remedy

    def __reduce__(self):
        return type(self), (self.path, self.reason, self.remedy)


def printable(text: str) -> str:
    """The text with every character that a terminal would obey, not show, as its escape; line ends stay.

    >>> print(printable("slide\\x1b[31m.png"))
    slide\\x1b[31m.png
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, what: str) -> str:
    """So many of a thing, for a message.

    >>> counted(3, "image"), counted(1, "image"), counted(12_000, "image")
    ('3 images', '1 image', '12,000 images')
    """
    return f"{number:,} {what}{'s' * (number != 1)}"
