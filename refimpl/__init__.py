"""refimpl: the bit-exact fixed-point reference implementation of TF-MLPNet.

``load(path, preset, profile)`` gives a :class:`Model`; ``model.separate(pcm)``, ``model.stream()`` and ``model.trace(pcm)``
are the three ways to run it. Rules cited as "SPEC X-n" are in ``conformance/SPEC.md``.
"""

from refimpl.errors import InputError
from refimpl.session import Model, Stream, load
from refimpl.version import ARITHMETIC, __version__

__all__ = ["ARITHMETIC", "InputError", "Model", "Stream", "__version__", "load"]
