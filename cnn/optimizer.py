"""The optimizer: Adam, with a learning rate that may change and weights that may decay."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from cnn.errors import UserError


def make_optimizer(
    steps: int,
    *,
    learning_rate: float = 1e-3,
    schedule: str = "constant",
    weight_decay: float = 0.0,
    as_keras: bool = False,
) -> optax.GradientTransformation:
    """Adam (Kingma and Ba, ICLR 2015), as Optax computes it, for a run of so many steps. In step t, of a gradient g:

        m <- 0.9 m + 0.1 g              a running mean of the gradients: which way is up
        v <- 0.999 v + 0.001 g^2        one of their squares: how large they usually are
        w <- w - learning_rate * (m / (1 - 0.9^t) / (sqrt(v / (1 - 0.999^t)) + 1e-8) + weight_decay * w)

    m and v start at 0, and the divisions by 1 - 0.9^t and 1 - 0.999^t make up for that.

    Args:
        steps: of the whole run: where a schedule ends.
        learning_rate: the largest.
        schedule: "constant"; "cosine" falls to 0 along half a cosine; "one-cycle" rises from a
            25th of it for 30 % of the steps, and then falls to next to nothing.
        weight_decay: how much of itself a kernel loses a step, times the learning rate (AdamW: Loshchilov and Hutter,
            ICLR 2019); 0 is plain Adam. What has one axis (biases, a norm's scale and shift, attention's
            score) does not decay.
        as_keras: where the small number goes that keeps Adam from dividing by zero. The paper's algorithm adds 1e-8
            after the correction of the start's bias; Keras adds 1e-7 before it (the paper's section 2, last paragraph),
            which counts for 1e-7 / sqrt(1 - 0.999^step): 3e-6 in the first step. Half of the gradients of the network
            of 2017 are smaller, so its first steps are others.
    Raises:
        UserError: for an unknown schedule.
    """
    schedules = {
        # a function too, so that the optimizer's state is of one form, and a run may change its schedule on its way
        "constant": lambda: learning_rate if as_keras else optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, steps),
        "one-cycle": lambda: optax.cosine_onecycle_schedule(steps, learning_rate),
    }
    if schedule not in schedules:
        raise UserError(f'schedule: got "{schedule}", wants one of {", ".join(schedules)}')
    decayed = partial(jax.tree.map, lambda leaf: leaf.ndim > 1)  # kernels; all else has one axis
    options = {"learning_rate": schedules[schedule](), "weight_decay": weight_decay, "mask": decayed}
    if not as_keras:
        return optax.adamw(**options)
    changing = optax.inject_hyperparams(optax.adamw, static_args=("weight_decay", "mask"))
    return changing(**options, eps=lambda step: 1e-7 / jnp.sqrt(1 - 0.999 ** (step + 1)))
