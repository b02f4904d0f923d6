"""A convolutional network from scratch in JAX. Read the files in the order of the README's reading list.

The only process-wide settings of the project are made here, because XLA reads them once, when jax first compiles.
The project works without them. A flag that the user has set in XLA_FLAGS already is left as it is.
"""

import os
from importlib.metadata import version


def _set_default(flag: str, value: str) -> None:
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={value}".strip()


# jaxlib 0.10 hands convolutions without padding to a code path that is slow for them on CPUs. An empty value
# turns the path off: the second convolution of the seed's network went from 86 to 8 ms (batch 32, two cores).
# Later versions are fast without it, and a flag unknown to XLA would end the process, so only 0.10 gets it.
if version("jaxlib").startswith("0.10."):
    _set_default("--xla_cpu_experimental_ynn_fusion_type", "")

# The same seed must give the same bytes on a GPU too, where sums are otherwise taken in the order of arrival.
_set_default("--xla_gpu_deterministic_ops", "true")
