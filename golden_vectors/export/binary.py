"""Raw little-endian files: one per tensor, or one blob per case, with ``index.json``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from golden_vectors.case import readable
from golden_vectors.export.prepare import Options, Prepared

ALIGNMENT = 16  # every tensor of a blob starts at a multiple of it
README = """Golden vectors of refimpl as raw little-endian words in C order, without headers.

index.json lists the cases; of every tensor its file, offset and bytes, role, format, the shape in the case, the stored axes,
shape and strides (in bytes), SHA-256, scale and zero point: a code q is the real value (q - zero_point) * scale. A scale is a
hexadecimal FP64 number. bf16 is the 16-bit pattern, f32 an IEEE 754 word.
"""


def files(cases: Iterable[Prepared], options: Options) -> Iterator[tuple[str, bytes]]:
    """``CASE/TENSOR.bin``, or ``CASE.bin`` as blobs, then ``index.json`` and ``README.txt``."""
    index = []
    for prepared in cases:
        entries, blob = [], bytearray()
        for item in prepared.items:
            data = item.values.tobytes()
            blob += bytes(-len(blob) % ALIGNMENT) if options.blob else b""
            name = f"{prepared.case.id}.bin" if options.blob else f"{prepared.case.id}/{item.name}.bin"
            offset = len(blob) if options.blob else 0
            entries.append(item.entry() | {"file": name, "offset": offset, "sha256": hashlib.sha256(data).hexdigest()})
            if options.blob:
                blob += data
            else:
                yield name, data
        if options.blob:
            yield f"{prepared.case.id}.bin", bytes(blob)
        yield from ((f"{prepared.case.id}/{name}", data) for name, data in prepared.case.files.items())
        index.append(prepared.index(entries))
    yield "index.json", readable({"cases": index})
    yield "README.txt", README.encode()
