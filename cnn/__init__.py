"""A convolutional network from scratch in JAX. Read the files in the order of the README's reading list.

What must be set for the whole process before jax first compiles is set here, since XLA, the compiler that turns a jax
program into machine code, reads its flags once. Without these settings the project works too, only slower. What the
user has set already, in XLA_FLAGS or for malloc, is left as it is. (The device, and how exactly it multiplies, a
program chooses later, in `command_line.choose_device`.)

Times in the comments of this project are of the machine of that day: compare those of one comment, not of two files.
"""

import ctypes
import os
import sys
from importlib.metadata import version


def _set_default(flag: str, value: str) -> None:
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()


# jaxlib hands convolutions without padding to a code path that, on CPUs, is good at a convolution, bias, ReLU and pool
# in that order, and slow for all that training needs. An empty value turns the path off: a training step of the network
# of 2017 went from 1,850 to 830 ms with jaxlib 0.10, and from 960 to 780 with 0.11 (with the flags below; all else as
# one writes it first). A flag unknown to XLA would end the process: only those get it.
if version("jaxlib").startswith(("0.10.", "0.11.")):
    _set_default("--xla_cpu_experimental_ynn_fusion_type", "")

# XLA has two ways to make machine code of a loop that joins several operations. By the older one the main job's step is
# compiled after 2.5 s of two cores and not 4 (jaxlib 0.11: 3.2 and not 7.2), and takes 3 % longer. Code that fetches
# pixels one by one would take seven times as long, and so asks for the newer one itself (`resampling.py`). XLA ignores
# extra options that it does not know.
_set_default("--xla_backend_extra_options", "xla_cpu_disable_new_fusion_emitters")

# Compiled at the second of XLA's three levels, programs are as fast (measured for the steps, augmentations and
# predictors of all networks here), and there sooner: augmentation and predictor after two thirds of the work, the step
# after four fifths. At the first level a forward pass is slower, and XLA's part for GPUs refuses it.
_set_default("--xla_backend_optimization_level", "2")

# The same seed must give the same bytes on a GPU too, where sums are otherwise taken in the order of arrival. The
# price: XLA tries no ways for a convolution, but takes the first that it may (a step on an H100, in tf32, with XLA's
# convolutions alone: 0.99 ms for 0.94, but compiled in 2.4 s, not 19). XLA_FLAGS can say otherwise.
_set_default("--xla_gpu_deterministic_ops", "true")


def _keep_freed_memory() -> None:
    """Has the C library keep memory that a step has freed for the next one, on Linux (glibc); elsewhere does nothing.

    A training step of the network of 2017 takes and frees 250 MB. By default most of them go back to the system each
    time, which hands them out again page by page, 42,000 pages filled with zeros: a step takes 243 ms so, and 207 if
    they are kept (and 800 and 420 on two slow cores, where the system was slower too). Up to 2 GB are kept. The numbers
    are names of mallopt(3): one arena for all threads; no block by mmap; how much to keep.
    """
    if any(name.startswith("MALLOC_") or "glibc.malloc" in value for name, value in os.environ.items()):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):  # M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD
            mallopt(option, value)


_keep_freed_memory()
