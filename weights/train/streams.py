"""What a preset stores in INT8 of what residuals add up, for training with those values rounded: ``train --streams``.

Of all that a preset quantizes these sums cost most: they pass every block, and each is rounded anew. Float weights trained with
nothing but these rounded keep the speed of float training, and are a start for :mod:`weights.train.qat`, which knows the rest.
"""

from __future__ import annotations

from refimpl.errors import InputError
from refimpl.networks import tf_mlpnet
from refimpl.presets import load_preset
from refimpl.profiles import profile_named
from refimpl.weights_io import Container
from weights.train.model import Grid, TFMLPNet


def store(network: TFMLPNet, container: Container, preset: str) -> None:
    """``network`` rounds, and clips, the sums of its residuals that ``preset`` stores in INT8, on the container's ranges.

    Raises InputError where there are none, or where the container is of a network of other sizes.
    """
    sizes = {name: getattr(container.config, name) for name in network.sizes}
    if sizes != network.sizes:
        other = ", ".join(f"{name} {value}" for name, value in sizes.items() if value != network.sizes[name])
        raise InputError(f"--streams: is of another network ({other}); give a calibrated container of the one that is trained")
    formats = tf_mlpnet.build(
        container.config, container.weights, container.ranges, load_preset(preset), profile_named("gap9")
    ).tensors
    found = 0
    for name, total in network.sums():
        form = formats.get(f"{name}.out", formats[name]).format  # the encoder's output as the first block takes it
        total.grid = None
        if form.is_code and form.bits == 8:
            total.grid = (form.scale, form.lowest - form.zero_point, form.highest - form.zero_point)
            found += 1
    if not found:
        raise InputError(
            f"preset {preset!r} stores no sum of residuals in INT8; train without --streams, or give another --preset"
        )


def let(network: TFMLPNet, grids: list[Grid | None]) -> None:
    """``network`` rounds its sums, in the order of :meth:`TFMLPNet.sums`, on ``grids`` from here on; None: not."""
    for (_, total), grid in zip(network.sums(), grids, strict=True):
        total.grid = grid
