# %% [markdown]
"""How did a training step become seven times as fast? From JAX as one writes it first to this project, cure by cure.

    python -m experiments.faster

One step of the network of 2017 (batch 32, 120 x 160, float32): first with the primitives of jax alone, then with one
cure more each time (`experiments/peers/rungs.py`), last as `cnn` trains. Each is a process of its own, since some
cures are set for a whole process; all ten live at once, and want 12 GB of memory. They take turns, so that a slow
moment of the machine hits all of them. Before that all must compute the same loss and gradients of four images from
the same weights.

For processors: a GPU is slow for other reasons. What you have set in XLA_FLAGS, or for malloc, does not count here.
"""

from dataclasses import dataclass
from pathlib import Path

from cnn import command_line


# %%
@dataclass(frozen=True, kw_only=True)
class Settings(command_line.Common):
    """Time a training step with more and more of what makes it fast."""

    rounds: int = 5
    """How often every step has its turn; the median counts."""

    def __post_init__(self):
        super().__post_init__()
        command_line.at_least(1, rounds=self.rounds)


if __name__ == "__main__":
    SETTINGS = command_line.parse(Settings)  # before the slow imports

# %%
from rich.console import Console
from rich.table import Table

from cnn import figures, progress, reports, runs
from cnn.errors import UserError
from experiments import benchmark
from experiments.peers.processes import PEERS, Entry

# %% [markdown]
# What is slow in the obvious step, and the cure. (XLA is the compiler that turns a jax program into machine code.)
#
# 1. **The routine** (`cnn/__init__.py`). XLA knows several ways to convolve on a processor. Of its own accord it takes
#    one that is good if bias, ReLU and pool can be joined to the convolution, as they can when nothing is to be
#    learned, and slow for what training needs. A flag, read before anything is compiled, has it take another. (The
#    other flags there, for compiling sooner, come with it: a step takes 3 % longer by them.)
# 2. **The gradients** (`cnn/fast_convolution.py`). They are convolutions too, but jax writes them with axes in another
#    order and pixels spread apart. Ours lay the operands out first, so that both are plain convolutions. By itself that
#    brings nothing; but where several steps are one call (`lax.scan`), XLA is slow for all that is not plain: 20 s
#    become 0.3.
# 3. **Memory** (`cnn/__init__.py`). The numbers between the layers take 250 MB. The C library gives most of them back
#    to the system after each step, and gets them again page by page, each filled with zeros first. It can be told to
#    keep them. (That of Linux; elsewhere this changes nothing.)
# 4. **The pool** (`cnn/pooling.py`). Backward, jax looks for the largest pixel of each window once more, window by
#    window. Ours takes the four pixels of all windows at once, as four slices, and compares them in the same way.
# 5. **The order** (`cnn/models.py`). Adding a bias, and ReLU, never make a smaller number the larger one. So the pool
#    may come first, and a quarter of the numbers is left for them, forward and backward.
# 6. **The bias** (`cnn/channels.py`). Its gradient is a sum over three axes, which XLA takes by a detour and on one
#    core. Two sums, over the batch and then over places, take a quarter of the time.
# 7. **Three channels** (`cnn/convolution.py`). A convolution is a product of matrices, and XLA's routine gathers the
#    patches for it number by number if a pixel has three. To copy their lines beforehand, and multiply once, takes half
#    the time.
# 8. **The cache** (`cnn/network.py`). After the first convolution a batch is 76 MB, and every layer fetches it from
#    memory. An eighth of the batch at a time stays in the processor's cache from layer to layer.

# %%
FIRST = "JAX as one writes it first"
CURES = {  # as `peers/rungs.py` calls them
    "flags": "XLA's other routine for convolutions",
    "gradients": "gradients as plain convolutions",
    "memory": "freed memory is kept",
    "pool": "a pool by slices, with its own gradient",
    "order": "the pool before bias and ReLU",
    "bias": "a bias's gradient in two sums",
    "patches": "three channels: patches are copied line by line",
    "parts": "the batch in eight parts",
}
OURS = "this project's training step"


def entries() -> dict[str, Entry]:
    """Whom the benchmark is to time: "cnn", the obvious way, the same with the first cure, with the first two, ..."""
    cured = {
        what: Entry("rungs", ("step",), {"PEER_CURES": ",".join([*CURES][:number])})
        for number, what in enumerate(CURES.values(), start=1)
    }
    return {"cnn": PEERS["cnn"], FIRST: Entry("obvious", ("step",))} | cured


def table(milliseconds: dict[str, float], shares: dict[str, float]) -> Table:
    """For a terminal: from the first step to this project's."""
    title = "one training step, with one cure more in each line; limit: the machine's matrix rate"
    shown = Table(title=title, title_justify="left")
    for heading in ("with", "ms", "speed", "of the limit"):
        shown.add_column(heading, justify="left" if heading == "with" else "right")
    for name, value in milliseconds.items():
        row = f"{value:,.0f}", f"{milliseconds[FIRST] / value:.1f} x", f"{shares[name]:.0%}"
        shown.add_row(name, *row, style="bold" if name == OURS else None)
    return shown


# %%
def main(settings: Settings) -> dict[str, float]:
    """Times all, and returns the milliseconds of each, from the first to this project's."""
    if settings.device == "gpu":
        raise UserError("--device: these are cures for a processor; python -m experiments.benchmark compares on a GPU")
    device, console = command_line.choose_device("cpu"), progress.terminal()
    print(command_line.first_line("faster", device, "drawn tissue"), flush=True)
    folder = runs.create_folder("faster", settings.out)
    runs.write_config(folder, "faster", settings, device)
    console.print(f"starting {len(CURES) + 2} processes; writing to {folder}", highlight=False)
    return report(measured(settings, console), folder, device, console)


def measured(settings: Settings, console: Console) -> dict:
    """What the benchmark says of the steps."""
    asked = benchmark.Settings(seed=settings.seed, rounds=settings.rounds, tasks=("step",))
    return benchmark.compare(entries(), "cpu", asked, console)


def report(result: dict, folder: Path, device: str, console: Console) -> dict[str, float]:
    """Writes and shows what came out; returns the milliseconds."""
    rows = result["tasks"]["step"]
    names = {FIRST: FIRST} | {what: f"+ {what}" for what in CURES.values()} | {"cnn": OURS}
    milliseconds = {shown: 1e3 * rows[name]["seconds"] for name, shown in names.items()}
    console.print(table(milliseconds, {shown: rows[name]["share_of_limit"] for name, shown in names.items()}))
    runs.write_json(folder / "faster.json", {"milliseconds": milliseconds, "cures": CURES, "device": device} | result)
    limit = milliseconds[OURS] * rows["cnn"]["share_of_limit"]
    figures.ladder(folder / "faster.png", milliseconds, limit, f"Milliseconds a training step, cure by cure: {device}")
    reports.print_files(console, folder)
    return milliseconds


if __name__ == "__main__":
    with command_line.one_sentence():
        main(SETTINGS)
