"""One ``.npz`` per case, with its ``case.json``: the same bytes on every machine."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping

from golden_vectors.case import npy, readable
from golden_vectors.export.prepare import Options, Prepared

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that a zip file can have


def files(cases: Iterable[Prepared], options: Options) -> Iterator[tuple[str, bytes]]:
    """``CASE.npz``: every tensor as stored, ``case.json`` with what an index says of them, and a network's container."""
    for prepared in cases:
        members = {f"{item.name}.npy": npy(item.values, item.format) for item in prepared.items}
        document = prepared.index([item.entry() for item in prepared.items])
        yield f"{prepared.case.id}.npz", archive({"case.json": readable(document), **members, **prepared.case.files})


def archive(members: Mapping[str, bytes]) -> bytes:
    """A zip file that depends on its members only: stored (a compressor's bytes depend on its version), with fixed times."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as target:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            target.writestr(info, data)
    return sink.getvalue()
