"""Precision presets: data files that map tensor and weight names to number formats, first match wins (SPEC M-10).

``formats`` is a list of ``[pattern, format]``; patterns are shell-style (``fnmatch``) over the names that
``python -m refimpl.run --dump`` writes, plus ``NAME.weight`` for a layer's weights. Formats: int8, int16, bf16, f32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

from refimpl.errors import InputError

FOLDER = Path(__file__).resolve().parent
NAMES = ("fp32", "int8", "mixlstm", "fpconv", "mixmlp", "fullmlp")  # the paper's
MORE = ("int16", "stream16")  # ours: for accelerators without BF16; 16 bits where they gain most
KINDS = ("int8", "int16", "bf16", "f32")


@dataclass(frozen=True)
class Preset:
    """A named map from tensor or weight name to number format."""

    name: str
    formats: tuple[tuple[str, str], ...]

    def kind(self, tensor: str) -> str:
        for pattern, kind in self.formats:
            if fnmatchcase(tensor, pattern):
                return kind
        raise InputError(f"preset {self.name!r} has no format for tensor {tensor!r}: add a pattern that matches it")

    @property
    def is_float(self) -> bool:
        """True where every format is FP32: no ranges are needed."""
        return all(kind == "f32" for _, kind in self.formats)


@lru_cache
def load_preset(name: str) -> Preset:
    """A shipped preset by name, or one from a ``.json`` file by its path; :class:`InputError` if it is neither."""
    shipped = (*NAMES, *MORE)
    path = FOLDER / f"{name}.json" if name in shipped else Path(name)
    if name not in shipped and path.suffix != ".json":
        raise InputError(f"preset {name!r} is unknown: use one of {', '.join(shipped)}, or the path of a preset .json file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        formats = tuple((str(pattern), str(kind)) for pattern, kind in data["formats"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{path}: not a preset file ({error}): expected {{"formats": [[pattern, format], ...]}}'.replace("\n", " ")
        ) from None
    for pattern, kind in formats:
        if kind not in KINDS:
            raise InputError(f"{path}: format {kind!r} of pattern {pattern!r} is unknown: use one of {', '.join(KINDS)}")
    return Preset(path.stem, formats)
