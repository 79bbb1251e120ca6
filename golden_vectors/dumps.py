"""Import of what a device dumped: ``.npy``, ``.npz``, raw ``.bin`` and ``$readmemh`` text, back to tensors [T, F, C].

A dump may be in any layout of :mod:`golden_vectors.layouts`, and may hold only some frames. Nothing is read before its size was
compared with what the tensor can have, and no bit is changed: a NaN's payload comes out as it went in.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from golden_vectors.case import DTYPES, Case, parse_npy
from golden_vectors.layouts import check_layout, feature_maps, guesses, mapped_shape, unmap_features
from golden_vectors.schema import shown
from golden_vectors.structure import is_framed
from refimpl.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
SUFFIXES = (".npy", ".bin", ".hex", ".txt")
HEADER = 64 << 10  # bytes that a .npy file may have beside its data
TEXT_PER_WORD, TEXT_BESIDE = 64, 1 << 20  # bytes that a text dump may have per word, and beside
ALIASES = {"bf16": ("uint16", "|V2", "<V2"), "f32": ("float32", "uint32")}  # bit patterns under other names


@dataclass(frozen=True)
class Dump:
    """What a dump holds of one tensor: the frames [first, stop) of it, as ``values`` [stop - first, ...]."""

    values: Array
    first: int
    stop: int


@dataclass(frozen=True)
class DumpFolder:
    """The dumps found in a folder by tensor name, the tensors without one, and the files that are no tensor's."""

    found: Mapping[str, Dump]
    absent: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Wanted:
    """The tensor that a file should hold, and how it is stored there."""

    path: Path
    format: str
    shape: Shape
    layout: str = "hwc"
    pad_channels: int = 1
    partial: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(DTYPES[self.format])

    def stored(self, frames: int | None = None) -> Shape:
        """The stored shape of that many frames; of all by default."""
        shape = self.shape if frames is None else (frames, *self.shape[1:])
        return mapped_shape(shape, self.layout, self.pad_channels) if self.mapped else shape

    @property
    def mapped(self) -> bool:
        return (self.layout, self.pad_channels) != ("hwc", 1)

    @property
    def frame_size(self) -> int:
        """Stored elements of one frame."""
        return prod(self.stored(1))

    def frames_in(self, elements: int) -> int | None:
        """How many frames that many elements are; None where they are none of the numbers that are allowed."""
        if elements == prod(self.stored()):
            return self.shape[0] if self.shape else 1
        if not self.partial or not self.frame_size or elements % self.frame_size:
            return None
        count = elements // self.frame_size
        return count if 0 < count < self.shape[0] else None


def read_dump(
    path: Path,
    format: str,
    shape: Shape,
    *,
    layout: str = "hwc",
    pad_channels: int = 1,
    big_endian: bool = False,
    member: str | None = None,
) -> Array:
    """A whole dumped tensor of a case's ``format`` and ``shape``, in the case's dtype and C order.

    ``layout`` and ``pad_channels`` say how the device stores a feature map; ``big_endian`` how ``.bin`` stores its words (a
    ``.npy`` file says so itself, text has no byte order); ``member`` names the array in an ``.npz``. :class:`InputError` names
    the file, what it holds and what was expected, and the option that would read it where one would.
    """
    wanted = _wanted(path, format, shape, layout, pad_channels, False)
    return _read(wanted, big_endian, member, 0).values


def read_part(
    path: Path,
    format: str,
    shape: Shape,
    *,
    first: int = 0,
    layout: str = "hwc",
    pad_channels: int = 1,
    big_endian: bool = False,
    member: str | None = None,
) -> Dump:
    """As :func:`read_dump`, for a tensor whose first axis counts frames: a dump of fewer frames gives those that it has.

    ``first`` is the number of the dump's first frame; the addresses of a text dump say so themselves. :class:`InputError` also
    where frames lie outside of the tensor.
    """
    if not shape:
        raise InputError(f"{path}: a single number has no frames; read it whole")
    return _read(_wanted(path, format, shape, layout, pad_channels, True), big_endian, member, first)


def read_dump_folder(
    folder: Path, case: Case, *, layout: str = "hwc", pad_channels: int = 1, big_endian: bool = False, first: int = 0
) -> DumpFolder:
    """Every expected tensor and next state of a case that ``folder`` holds as NAME.npy, .bin, .hex or .txt.

    The layout is applied to feature maps only. Tensors of frames may be partial (their frames start at ``first``), states may
    not. :class:`InputError` for the first file that does not fit, and where two files hold one tensor.
    """
    check_layout(layout, pad_channels)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; give the folder of the dump's files")
    files = {path.name: path for path in sorted(folder.iterdir())}
    found: dict[str, Dump] = {}
    absent, used, features = [], set(), feature_maps(case)
    for name in case.names("expected", "next_state"):
        have = [f"{name}{suffix}" for suffix in SUFFIXES if f"{name}{suffix}" in files]
        if len(have) > 1:
            raise InputError(f"{folder}: both {have[0]} and {have[1]} hold {name!r}; remove one")
        if not have:
            absent.append(name)
            continue
        used.add(have[0])
        tensor = case.tensors[name]
        partial = tensor.role == "expected" and is_framed(case)
        how = (layout, pad_channels) if name in features else ("hwc", 1)
        wanted = _wanted(files[have[0]], tensor.format, tensor.values.shape, *how, partial)
        found[name] = _read(wanted, big_endian, None, first if partial else 0)
    return DumpFolder(found, tuple(absent), tuple(sorted(set(files) - used)))


def _wanted(path: Path, form: str, shape: Shape, layout: str, pad_channels: int, partial: bool) -> _Wanted:
    check_layout(layout, pad_channels)
    if form not in DTYPES:
        raise InputError(f"format {form!r} is unknown; use one of {', '.join(DTYPES)}")
    wanted = _Wanted(path, form, tuple(shape), layout, pad_channels, partial)
    if wanted.mapped and len(shape) != 3:
        raise InputError(f"{path}: layout {layout} is for feature maps [T, F, C], this tensor is {list(shape)}; leave it out")
    return wanted


def _read(wanted: _Wanted, big_endian: bool, member: str | None, first: int) -> Dump:
    path = wanted.path
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a dump ({', '.join(SUFFIXES)} or .npz)")
    if (member is not None) != (path.suffix == ".npz"):
        raise InputError(f"{path}: an .npz needs the name of a member, other files have none")
    if path.suffix == ".npz":
        flat = _npy_elements(wanted, _member(wanted, member or ""))
    elif path.suffix == ".npy":
        _limit(wanted, path.stat().st_size, prod(wanted.stored()) * wanted.dtype.itemsize + HEADER)
        flat = _npy_elements(wanted, path.read_bytes())
    elif path.suffix == ".bin":
        flat = _raw_elements(wanted, big_endian)
    elif path.suffix in (".hex", ".txt"):
        start, flat = _text_elements(wanted)
        first = start if start else first
    else:
        raise InputError(f"{path}: a dump is {', '.join(SUFFIXES)} or .npz; give the file the suffix of what it holds")
    return _placed(wanted, flat, first)


def _placed(wanted: _Wanted, flat: Array, first: int) -> Dump:
    """The elements as frames from ``first`` on, in the layout of cases."""
    frames = wanted.frames_in(flat.size)
    if frames is None:
        raise _wrong_size(wanted, flat.size * wanted.dtype.itemsize)
    total = wanted.shape[0] if wanted.shape else 1
    if first < 0 or first + frames > total:
        raise InputError(
            f"{wanted.path}: frames {first} to {first + frames - 1} of {total}; check the number of the first frame"
        )
    shape = (frames, *wanted.shape[1:]) if wanted.shape else ()
    values = flat.reshape(wanted.stored(frames) if wanted.shape else ())
    if wanted.mapped:
        values = unmap_features(values, wanted.layout, shape, wanted.pad_channels)
    return Dump(np.ascontiguousarray(values).reshape(shape), first, first + frames)


# -- raw --------------------------------------------------------------------------------------------------------------


def _raw_elements(wanted: _Wanted, big_endian: bool) -> Array:
    size, item = wanted.path.stat().st_size, wanted.dtype.itemsize
    if size % item or wanted.frames_in(size // item) is None:
        raise _wrong_size(wanted, size)
    values = np.frombuffer(wanted.path.read_bytes(), wanted.dtype.newbyteorder(">") if big_endian else wanted.dtype)
    return values.byteswap().view(wanted.dtype) if big_endian else values


def _wrong_size(wanted: _Wanted, size: int) -> InputError:
    """What is expected, what is there, and what that may be instead."""
    expected = prod(wanted.stored()) * wanted.dtype.itemsize
    text = f"{wanted.path}: {size} bytes, but {wanted.format} {list(wanted.stored())} has {expected}"
    hints = _size_hints(wanted, size)
    return InputError(f"{text}; {' or '.join(hints) if hints else 'check which tensor this is, or dump it again'}")


def _size_hints(wanted: _Wanted, size: int) -> list[str]:
    hints = []
    if not wanted.partial and len(wanted.shape) > 1 and wanted.frame_size:
        frame = wanted.frame_size * wanted.dtype.itemsize
        if size % frame == 0 and 0 < size // frame < wanted.shape[0]:
            hints.append(f"it has the size of {size // frame} of {wanted.shape[0]} frames: read it as a part")
    widths = sorted({np.dtype(code).itemsize for code in DTYPES.values()} - {wanted.dtype.itemsize})
    for width in widths:
        if size == prod(wanted.stored()) * width:
            hints.append(f"it has the size of elements of {8 * width} bits: dump {wanted.format} as it is")
    shapes: dict[int, str] = {}
    for shape, how in guesses(wanted.shape).items():
        shapes.setdefault(prod(shape) * wanted.dtype.itemsize, how)
    if size in shapes:
        hints.append(f"it has the size of {shapes[size]}: give that")
    return hints


def _limit(wanted: _Wanted, size: int, largest: int) -> None:
    if size > largest:
        raise InputError(
            f"{wanted.path}: {size} bytes, but {wanted.format} {list(wanted.stored())} has at most {largest} in such a file; "
            "check which tensor this is"
        )


# -- NumPy ------------------------------------------------------------------------------------------------------------


def _npy_elements(wanted: _Wanted, data: bytes) -> Array:
    """The elements of a ``.npy`` file in stored order, as little-endian words of the case's dtype."""
    shape, fortran, dtype, body = parse_npy(wanted.path, data)
    native = dtype.newbyteorder("<") if dtype.kind != "V" else dtype
    if native != wanted.dtype and native.str not in {np.dtype(name).str for name in ALIASES.get(wanted.format, ())}:
        raise InputError(
            f"{wanted.path}: holds {dtype}, {wanted.format} is stored as {wanted.dtype}; {_dtype_hint(wanted, native)}"
        )
    if fortran and len(shape) > 1:
        raise InputError(f"{wanted.path}: is in Fortran order; save it with numpy.ascontiguousarray")
    if len(body) != prod(shape) * dtype.itemsize:
        raise InputError(f"{wanted.path}: {len(body)} bytes of data do not make {list(shape)} of {dtype}; dump it again")
    frames = wanted.frames_in(prod(shape))
    if frames is None or shape not in (wanted.stored(frames) if wanted.shape else (), (prod(shape),)):
        raise _wrong_shape(wanted, shape)
    words = np.frombuffer(body, dtype)
    swapped = dtype.byteorder == ">"
    return words.byteswap().view(wanted.dtype) if swapped else words.view(wanted.dtype)


def _dtype_hint(wanted: _Wanted, dtype: np.dtype[Any]) -> str:
    if dtype.kind == "u" and wanted.dtype.kind == "i":
        return f"codes are signed: subtract {1 << (8 * wanted.dtype.itemsize - 1)} from unsigned ones"
    if wanted.format == "bf16":
        return "dump the 16-bit patterns"
    if dtype.kind == "f" and wanted.dtype.kind != "f":
        return "dump the codes, not their real values"
    return "dump it in that type"


def _wrong_shape(wanted: _Wanted, shape: Shape) -> InputError:
    text = f"{wanted.path}: holds {list(shape)}, expected {list(wanted.stored())}"
    axis = 1 if wanted.layout == "ctf" else 0
    frames = shape[axis] if len(shape) == len(wanted.stored()) > axis else 0
    if wanted.partial:
        text += " or fewer frames"
    elif len(wanted.shape) > 1 and 0 < frames < wanted.shape[0] and shape == wanted.stored(frames):
        return InputError(f"{text}; it has the shape of {frames} of {wanted.shape[0]} frames: read it as a part")
    how = guesses((shape[0], *wanted.shape[1:]) if wanted.partial and shape else wanted.shape).get(shape)
    return InputError(f"{text}; {f'it has the shape of {how}: give that' if how else 'check which tensor this is'}")


def _member(wanted: _Wanted, name: str) -> bytes:
    """One array of an ``.npz``; its declared size is judged before a byte of it is unpacked."""
    path, largest = wanted.path, prod(wanted.stored()) * wanted.dtype.itemsize + HEADER
    try:
        with zipfile.ZipFile(path) as archive:
            info = next((i for i in archive.infolist() if i.filename == f"{name}.npy"), None)
            if info is None:
                names = ", ".join(i.filename.removesuffix(".npy") for i in archive.infolist()[:5])
                raise InputError(f"{path}: has no array {shown(name)}, but {shown(names)}; name one that it has")
            _limit(wanted, info.file_size, largest)
            with archive.open(info) as source:
                return source.read(largest + 1)
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a whole .npz file ({' '.join(str(error).split())[:120]}); write it again") from None


# -- text -------------------------------------------------------------------------------------------------------------


def _text_elements(wanted: _Wanted) -> tuple[int, Array]:
    """The first frame and the elements of ``$readmemh`` text: words, ``@address`` in words, both kinds of comment."""
    path = wanted.path
    most = prod(wanted.stored())
    _limit(wanted, path.stat().st_size, most * TEXT_PER_WORD + TEXT_BESIDE)
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text of hexadecimal words; give a raw dump the suffix .bin") from None
    start, words = _run_of_words(wanted, re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.DOTALL), most)
    size = 0 if wanted.layout == "ctf" else wanted.frame_size  # where a frame's words are not together, there is no first one
    if start % size if size else start:
        raise InputError(f"{path}: starts at word {start}, which is not where a frame starts; dump whole frames from there")
    unsigned = np.array(words, np.uint64).astype(f"<u{wanted.dtype.itemsize}")
    return start // size if size else 0, unsigned.view(wanted.dtype)


def _run_of_words(wanted: _Wanted, text: str, most: int) -> tuple[int, list[int]]:
    """The words by address, which must be one run without holes."""
    path, limit = wanted.path, 1 << (8 * wanted.dtype.itemsize)
    start: int | None = None
    at = 0
    words: list[int] = []
    for token in text.split():
        if token.startswith("@"):
            at = _number(path, token[1:], "address")
            if start is not None and at != start + len(words):
                raise InputError(
                    f"{path}: @{token[1:]} leaves the words from {start + len(words)} on; dump them in order, without holes"
                )
            continue
        start = at if start is None else start
        value = _number(path, token, "word")
        if value >= limit:
            raise InputError(
                f"{path}: {shown(token)} does not fit {wanted.format}; dump words of {8 * wanted.dtype.itemsize} bits"
            )
        words.append(value)
        if start + len(words) > most:
            raise InputError(
                f"{path}: more than the {most} words of {wanted.format} {list(wanted.stored())}; check which tensor this is"
            )
    return start or 0, words


def _number(path: Path, digits: str, what: str) -> int:
    bare = digits.replace("_", "")
    if re.fullmatch("[0-9a-fA-F]{1,64}", bare):
        return int(bare, 16)
    if re.fullmatch("[0-9a-fA-FxXzZ?]{1,64}", bare):
        raise InputError(f"{path}: {what} {digits} is not driven (x or z); the memory was not written there")
    raise InputError(f"{path}: {shown(digits)} is no hexadecimal {what}; write the file as $readmemh reads it")
