"""How the chapters check: central differences in float64, element by element, and failures that say what was expected.

`test_the_tests_can_fail.py` shows that these checkers reject a gradient that is off by a tenth of a percent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def numeric_gradient(function: Callable[[np.ndarray], float], at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """d function / d at, one element after the other: (f(x + h) - f(x - h)) / 2h.

    It is wrong by two things: the curve, by terms of h^2, here 1e-12, and rounding, by 1e-16 |f| / h, here 1e-10 |f|. A
    smaller step would make the second larger; in float32, by 1e-7 |f| / h, nothing would be left.

    Args:
        function: from an array of `at`'s shape to one number; must compute in float64.
        at: float64.
    """
    at = np.asarray(at, np.float64)
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (float(function(up)) - float(function(down))) / (2 * step)
    return gradient


def assert_equal_arrays(got: object, want: object, why: str, rtol: float = 1e-5, atol: float | None = None) -> None:
    """Fails with `why`, both arrays, and the place of the largest difference unless shapes and values agree.

    `atol` is 1e-6 unless given, and less where `rtol` asks for more: with rtol=0 every bit counts.
    """
    atol = min(1e-6, rtol / 10) if atol is None else atol
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{why}: shape {got.shape}, expected {want.shape}"
    wrong = ~np.isclose(got, want, rtol=rtol, atol=atol)
    if wrong.any():
        distance = np.where(wrong, np.abs(np.nan_to_num(got) - np.nan_to_num(want)), -1)
        place = tuple(int(i) for i in np.unravel_index(distance.argmax(), got.shape))
        raise AssertionError(
            f"{why}: {wrong.sum()} of {wrong.size} values differ, most at {place}: got {got[place]}, "
            f"expected {want[place]}\ngot\n{got}\nexpected\n{want}"
        )


def assert_gradient(
    got: object, function: Callable[[np.ndarray], float], at: np.ndarray, what: str, rtol: float = 1e-4
) -> None:
    """Fails, naming `what`, unless `got` is the gradient of `function` at `at`, every element of it."""
    want = numeric_gradient(function, at)
    assert_equal_arrays(got, want, f"the gradient of {what}", rtol=rtol, atol=1e-7)


def assert_gradient_of_each(loss: Callable[[list, jax.Array], jax.Array], leaves: list, images: np.ndarray) -> None:
    """Fails unless jax's gradient of loss(leaves, images) is that of differences: by the images, and by each parameter.

    No parameter may be cut off: none has a gradient of 0 everywhere.
    """
    d_leaves, d_images = jax.jit(jax.grad(loss, argnums=(0, 1)))(leaves, jnp.asarray(images))
    assert_gradient(d_images, lambda at: loss(leaves, at), images, "the network by its images")
    for i, leaf in enumerate(leaves):
        assert np.any(d_leaves[i] != 0), f"the parameters of shape {leaf.shape} are cut off"

        def by_leaf(at, i=i):
            return loss([*leaves[:i], jnp.asarray(at), *leaves[i + 1 :]], images)

        assert_gradient(d_leaves[i], by_leaf, np.asarray(leaf), f"the network by its parameters of shape {leaf.shape}")
