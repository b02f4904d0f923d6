"""How much memory a process has, as Linux tells it."""

import re
from pathlib import Path


def megabytes(field: str) -> float:
    """A field of /proc/self/status, such as VmHWM, the most that this process had; NaN where there is none."""
    status = Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")
