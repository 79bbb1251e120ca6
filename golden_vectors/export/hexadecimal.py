"""Text for ``$readmemh``: one word per element, two's complement in the width of the format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from golden_vectors.case import readable
from golden_vectors.export.prepare import Item, Options, Prepared

README = """Golden vectors of refimpl for $readmemh: a word per element, two's complement, in the width of its format.

    reg [7:0] x [0:255];
    initial $readmemh("operators/.../x.hex", x);

Addresses (@) count words; a tensor of frames has one at the start of each. index.json lists the cases and of every tensor its
file, words, bits, role, format, the shape in the case, the stored axes and shape, SHA-256 of the words as little-endian bytes,
scale and zero point.
"""


def files(cases: Iterable[Prepared], options: Options) -> Iterator[tuple[str, bytes]]:
    """``CASE/TENSOR.hex``, then ``index.json`` and ``README.txt``."""
    index = []
    for prepared in cases:
        entries = []
        for item in prepared.items:
            name = f"{prepared.case.id}/{item.name}.hex"
            digest = hashlib.sha256(item.values.tobytes()).hexdigest()
            words, bits = item.values.size, 8 * item.values.dtype.itemsize
            entries.append(item.entry() | {"file": name, "words": words, "bits": bits, "sha256": digest})
            yield name, text(prepared.case.id, item, options.words_per_line).encode()
        yield from ((f"{prepared.case.id}/{name}", data) for name, data in prepared.case.files.items())
        index.append(prepared.index(entries))
    yield "index.json", readable({"cases": index})
    yield "README.txt", README.encode()


def text(case_id: str, item: Item, words_per_line: int) -> str:
    """The file of one tensor: two lines of comment, then the words, each frame under its address."""
    width = item.values.dtype.itemsize
    words = item.values.reshape(-1).view(f"<u{width}").tolist()
    axes = f" {','.join(item.axes)}" if item.axes else ""
    lines = [
        f"// {case_id} {item.name} ({item.role})",
        f"// {item.format} {list(item.values.shape)}{axes}, {len(words)} words of {8 * width} bits",
    ]
    step = len(words) // len(item.values) if item.framed and words else max(len(words), 1)
    for start in range(0, max(len(words), 1), step):
        lines.append(f"@{start:08x}")
        frame = words[start : start + step]
        for at in range(0, len(frame), words_per_line):
            lines.append(" ".join(f"{word:0{2 * width}x}" for word in frame[at : at + words_per_line]))
    return "\n".join(lines) + "\n"
