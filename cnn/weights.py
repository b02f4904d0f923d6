"""A network's weights as an .npz file: plain arrays by name, readable by numpy alone, and unable to run code."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnn.errors import UserError
from cnn.files import whole
from cnn.network import Network


def named_arrays(parameters: nnx.State) -> dict[str, np.ndarray]:
    """Each parameter by its place in the network, like "layers.0.kernel" (3, 3, 3, 32)."""
    leaves = jax.tree_util.tree_leaves_with_path(nnx.to_pure_dict(parameters))
    return {".".join(str(key.key) for key in path): np.asarray(leaf) for path, leaf in leaves}


def save_weights(path: Path, parameters: nnx.State) -> None:
    """Writes parameters to an .npz file, whole or not at all; the same parameters always give the same bytes."""
    with whole(path, "wb") as file:  # opened here, since numpy would add ".npz" to a name without it
        np.savez(file, **named_arrays(parameters))


def load_weights(path: Path, network: Network) -> nnx.State:
    """Reads parameters that fit the given network.

    Raises:
        UserError: if the file is missing, damaged, or holds other names, shapes or dtypes than the network's.
    """
    parameters = nnx.state(network)
    wanted = named_arrays(parameters)
    try:
        # opened here, because numpy leaves a damaged file open
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; give the folder of a finished run") from None
    except Exception as error:  # zipfile, zlib and numpy each have their own, for each kind of damage
        raise UserError(f"{path}: is damaged or no .npz file of weights ({error}); train again") from None
    differences = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    differences += [f"{name} is unknown" for name in found.keys() - wanted.keys()]
    differences += [
        f"{name} is {found[name].dtype} {found[name].shape} instead of {array.dtype} {array.shape}"
        for name, array in wanted.items()
        if name in found and (found[name].shape, found[name].dtype) != (array.shape, array.dtype)
    ]
    if differences:
        raise UserError(
            f"{path}: does not fit the network: {'; '.join(sorted(differences))}; give another run, or train again"
        )
    leaves = [jnp.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(parameters), leaves)
