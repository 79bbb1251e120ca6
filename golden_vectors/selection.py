"""Which cases of a suite are meant: by level, rule, flag, operator, preset, or a pattern of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from golden_vectors.case import FOLDER, case_folder, case_ids, read_document, read_json, read_manifest
from refimpl.errors import InputError


@dataclass(frozen=True)
class Entry:
    """A case as ``list`` shows it: its document without the tensors' values, and the bytes of its files."""

    id: str
    document: Mapping[str, Any]
    bytes: int

    @property
    def operators(self) -> list[str]:
        return list(dict.fromkeys(step["operator"] for step in self.document["steps"]))


@dataclass(frozen=True)
class Selection:
    """Cases that match every field that is given; ``only`` is a pattern of ids (``*``, ``?``, ``[...]``)."""

    only: str | None = None
    level: str | None = None
    rule: str | None = None
    flag: str | None = None
    operator: str | None = None
    preset: str | None = None

    def matches(self, entry: Entry) -> bool:
        document = entry.document
        return (
            (self.only is None or fnmatchcase(entry.id, self.only))
            and (self.level is None or document["level"] == self.level)
            and (self.rule is None or self.rule in document["rules"])
            and (self.flag is None or self.flag in document["flags"])
            and (self.operator is None or self.operator in entry.operators)
            and (self.preset is None or document["preset"] == self.preset)
        )

    def __str__(self) -> str:
        return " ".join(f"--{name} {value}" for name, value in vars(self).items() if value is not None) or "nothing"


def entries(root: Path, selection: Selection) -> list[Entry]:
    """The chosen cases of a suite, sorted by id; :class:`InputError` where there are none."""
    files = read_manifest(root)
    ids = case_ids(files)
    sizes: dict[str, int] = dict.fromkeys(ids, 0)
    for name in files:
        path, owner = case_folder(root, name), name.rpartition("/")[0]
        if owner not in sizes or not path.is_file() or path.is_symlink():
            raise InputError(f"{path}: is missing or belongs to no case; fetch or generate the suite again")
        sizes[owner] += path.stat().st_size
    found = (Entry(case_id, _document(root, case_id), sizes[case_id]) for case_id in matching(ids, selection.only))
    chosen = [entry for entry in found if selection.matches(entry)]
    if not chosen:
        raise InputError(f"{root}: no case matches {selection}; see python -m golden_vectors list")
    return chosen


def _document(root: Path, case_id: str) -> dict[str, Any]:
    document = read_document(case_folder(root, case_id))
    if document["id"] != case_id:
        raise InputError(f"{case_folder(root, case_id)}: holds case {document['id']}; fetch or generate the suite again")
    return document


def matching(ids: Iterable[str], pattern: str | None) -> list[str]:
    """The ids that match a pattern; all without one."""
    return [case_id for case_id in ids if pattern is None or fnmatchcase(case_id, pattern)]


def flags() -> dict[str, dict[str, Any]]:
    """What the flags of cases mean: ``{flag: {bug, effect, rules}}``."""
    table: dict[str, dict[str, Any]] = read_json(FOLDER.parent / "flags.json", "install the package again")
    return table
