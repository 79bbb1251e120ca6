"""Exports of cases for a bench: C headers, raw binaries, ``$readmemh`` text, ``.npz`` and ONNX test data.

Every exporter is ``files(cases, options) -> Iterator[(path, bytes)]``: it sees prepared cases (frames cut, layouts applied) and
 touches no file. The folder is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from golden_vectors.case import Case
from golden_vectors.export import binary, c_header, hexadecimal, npz, onnx
from golden_vectors.export.prepare import Options, Prepared, prepare
from golden_vectors.folders import whole_folder
from refimpl.errors import InputError

Exporter = Callable[[Iterable[Prepared], Options], Iterator[tuple[str, bytes]]]
FORMATS: dict[str, Exporter] = {
    "c": c_header.files,
    "bin": binary.files,
    "hex": hexadecimal.files,
    "npz": npz.files,
    "onnx": onnx.files,
}


def export(cases: Iterable[Case], form: str, out: Path, options: Options) -> tuple[int, int]:
    """Write ``cases`` in a format of :data:`FORMATS` to the new folder ``out``; returns the numbers of files and of bytes.

    :class:`InputError` where ``out`` exists and is not empty, an option does not fit, no tensor is left, or the tensors are
    more than ``options.limit_bytes``; ``out`` is then as it was.
    """
    options.check(form)
    budget = _Budget(options.limit_bytes)
    count, size = 0, 0
    with whole_folder(out) as partial:
        for name, data in FORMATS[form]((budget.spend(p) for case in cases if (p := prepare(case, options)).items), options):
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as sink:  # two cases never share a file
                sink.write(data)
            count, size = count + 1, size + len(data)
        if not budget.cases:
            raise InputError("no tensor of the chosen cases matches --tensors; see the names in their case.json")
    return count, size


class _Budget:
    """Counts the bytes of tensors that go out, and stops when they are more than the limit."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.spent, self.cases = limit, 0, 0

    def spend(self, prepared: Prepared) -> Prepared:
        self.cases += 1
        self.spent += sum(item.values.nbytes for item in prepared.items)
        if self.limit is not None and self.spent > self.limit:
            raise InputError(
                f"{prepared.case.id}: brings the tensors to {self.spent} bytes, more than --limit-bytes {self.limit}; "
                "choose fewer cases, tensors or frames"
            )
        return prepared
