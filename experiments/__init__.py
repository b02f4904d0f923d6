"""Programs that ask one question each; see the README.

Each begins with seconds of imports, in which Ctrl-C must be heard too.
"""

import sys
from types import TracebackType


def end_quietly(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Says of Ctrl-C in one word what else would be a traceback, where nothing listens yet (`cnn/interrupts.py`)."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, where)


sys.excepthook = end_quietly
