"""One case: the only module that reads and writes case folders and the manifest.

A case is a folder: ``case.json`` (schema version 1, ``case.schema.json``) and one ``.npy`` file per tensor. Its steps are
operator calls over named tensors; roles say who owns a tensor: ``input`` and ``state`` (frames of the past, ``NAME.past``)
are given, ``constant`` belongs to a step, ``expected`` and ``next_state`` (``NAME.next``) are what a port must reproduce.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from golden_vectors.folders import whole_folder
from golden_vectors.registry import parameter_names
from golden_vectors.schema import check, schema, shown
from golden_vectors.structure import check_structure
from refimpl.errors import InputError
from refimpl.numerics.requantize import LAW_NAMES, Requantizer
from refimpl.numerics.tables import shipped
from refimpl.program import Format, Ref, Step
from refimpl.version import ARITHMETIC

Array = np.ndarray[Any, np.dtype[Any]]
SCHEMA = 1
FOLDER = Path(__file__).resolve().parent / "cases"
MANIFEST = "manifest.json"
LEVELS = ("numerics", "operators", "layers", "lstm", "block", "frame", "stream", "network")
DTYPES: dict[str, str] = {
    "int8": "i1",
    "uint8": "u1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "bf16": "<u2",
    "f32": "<f4",
    "f64": "<f8",
}
FIELDS: dict[str, tuple[str, ...]] = {  # the arrays of a requantizer that its law reads; the others are not stored
    "folded": ("bias", "multiplier", "addend", "shift"),
    "norm_twice": ("bias", "multiplier", "shift"),
    "bf16": ("bias", "scale"),
    "raw": ("bias",),
    "double": ("bias", "multiplier", "shift"),
    "single": ("bias", "multiplier", "shift"),
}
SHIPPED = ("sigmoid_bf16", "tanh_bf16", "twiddle_q30", "hann_q30")  # the vectors numerics/shipped_table hold them
LARGEST_FILE = 64 << 20  # bytes of one file; a writer refuses more, and a reader does before it allocates


@dataclass(frozen=True)
class CaseTensor:
    """A tensor with its role. ``scale`` and ``zero_point`` give codes their real value: ``(q - zero_point) * scale``."""

    role: str
    format: str
    values: Array
    scale: float | None = None
    zero_point: int | None = None

    @property
    def form(self) -> Format:
        return Format(self.format, 1.0 if self.scale is None else self.scale, self.zero_point or 0)


@dataclass(frozen=True)
class Network:
    """What a case of the whole network adds: its container, the chunks that a stream gets, a CRC-32 per tensor and frame."""

    container: str  # "weights.safetensors" in the case's folder, or "released": the shipped container of that digest
    sha256: str
    config: Mapping[str, int | str]
    chunks: tuple[int, ...] | None = None
    crc32: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One golden vector. ``files`` holds the bytes of files that are no tensors (a weights container)."""

    id: str
    comment: str
    rules: tuple[str, ...]
    tensors: Mapping[str, CaseTensor]
    steps: tuple[Step, ...] = ()
    flags: tuple[str, ...] = ()
    profile: str | None = None
    preset: str | None = None
    seed: int | None = None
    network: Network | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def level(self) -> str:
        return self.id.split("/")[0]

    def names(self, *roles: str) -> list[str]:
        return [name for name, tensor in self.tensors.items() if tensor.role in roles]

    def with_values(self, values: Mapping[str, Array]) -> Case:
        """The same case with the values of some tensors replaced."""
        changed = {name: replace(t, values=values[name]) if name in values else t for name, t in self.tensors.items()}
        return replace(self, tensors=changed)


# -- to bytes ---------------------------------------------------------------------------------------------------------


def encode(case: Case) -> dict[str, bytes]:
    """Every file of a case folder by name; the same case gives the same bytes on every machine."""
    files = dict(case.files)
    tensors: dict[str, Any] = {}
    for name, tensor in case.tensors.items():
        entry: dict[str, Any] = {
            "role": tensor.role,
            "format": tensor.format,
            "shape": list(tensor.values.shape),
            "file": f"{name}.npy",
        }
        if tensor.scale is not None:
            entry["scale"] = float(tensor.scale).hex()
        if tensor.zero_point is not None:
            entry["zero_point"] = int(tensor.zero_point)
        tensors[name] = entry
        files[f"{name}.npy"] = npy(tensor.values, tensor.format)
    names = _constant_names(case)
    steps = [
        {
            "name": step.name,
            "operator": step.operator,
            "inputs": [{"tensor": ref.tensor, "past": ref.past, "current": ref.current} for ref in step.inputs],
            "constants": [_constant(value, label, names) for label, value in constants_of(step)],
            "outputs": list(step.outputs),
            "loop": step.loop,
        }
        for step in case.steps
    ]
    network = None
    if case.network is not None:
        n = case.network
        network = {
            "container": n.container,
            "sha256": n.sha256,
            "config": dict(n.config),
            "chunks": None if n.chunks is None else list(n.chunks),
            "crc32": {name: list(values) for name, values in n.crc32.items()},
        }
    document = {
        "schema": SCHEMA,
        "arithmetic": ARITHMETIC,
        "id": case.id,
        "level": case.level,
        "comment": case.comment,
        "rules": list(case.rules),
        "flags": list(case.flags),
        "profile": case.profile,
        "preset": case.preset,
        "seed": case.seed,
        "network": network,
        "steps": steps,
        "tensors": tensors,
    }
    check(document, schema(), case.id)
    files["case.json"] = readable(document)
    widest = max(files, key=lambda name: len(files[name]))
    if len(files[widest]) > LARGEST_FILE:
        raise ValueError(f"{case.id}: {widest} has {len(files[widest])} bytes, a case file at most {LARGEST_FILE}")
    return files


def readable(document: Any) -> bytes:
    """JSON with one field a line and lists of numbers or names on one line."""
    text = json.dumps(document, indent=1)
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + re.sub(r"\s*\n\s*", " ", found[1]) + "]", text) + "\n"
    if json.loads(text) != document:
        raise ValueError("a text of this case looks like a list; write it without brackets")
    return text.encode()


def npy(values: Array, form: str) -> bytes:
    """The ``.npy`` bytes (version 1.0, C order, little-endian) of ``values``, whose dtype must be that of ``form``."""
    expected = np.dtype(DTYPES[form])
    if values.dtype != expected:
        raise ValueError(f"{form} is {expected}, not {values.dtype}")
    sink = io.BytesIO()
    np.lib.format.write_array(sink, np.ascontiguousarray(values, expected).reshape(values.shape), (1, 0), allow_pickle=False)
    return sink.getvalue()


def constants_of(step: Step) -> list[tuple[str, Any]]:
    """A step's constants with the names of the operator's parameters that they are passed to."""
    names = parameter_names(step.operator)[len(step.inputs) :]
    return [(names[index], value) for index, value in enumerate(step.constants)]


def constant_tensors(step: Step) -> dict[str, Array]:
    """The arrays among a step's constants, named ``STEP.PARAMETER`` (a requantizer's ``STEP.rq.FIELD``)."""
    found: dict[str, Array] = {}
    for label, value in constants_of(step):
        if isinstance(value, Requantizer):
            found |= {f"{step.name}.{label}.{key}": getattr(value, key) for key in _fields(value)}
        elif isinstance(value, np.ndarray) and not shipped_name(value):
            found[f"{step.name}.{label}"] = value
    return found


def shipped_name(values: Array) -> str:
    """The name of the shipped table that ``values`` is, which cases cite instead of storing it again; else nothing."""
    for name in SHIPPED:
        table = shipped(name)
        if table.shape == values.shape and table.dtype == values.dtype and np.array_equal(table, values):
            return name
    return ""


def _fields(rq: Requantizer) -> tuple[str, ...]:
    return FIELDS[LAW_NAMES[rq.law]]


def _constant_names(case: Case) -> dict[int, str]:
    """Constant arrays by identity, to the name of the tensor that stores them."""
    return {id(tensor.values): name for name, tensor in case.tensors.items() if tensor.role == "constant"}


def _constant(value: Any, label: str, names: Mapping[int, str]) -> dict[str, Any]:
    if isinstance(value, Requantizer):
        entry: dict[str, Any] = {"law": LAW_NAMES[value.law]}
        entry |= {key: int(getattr(value, key)) for key in ("pre_shift", "lowest", "highest", "offset")}
        entry |= {key: names[id(getattr(value, key))] for key in _fields(value)}
        return {"name": label, "requantizer": entry}
    if isinstance(value, np.ndarray):
        table = shipped_name(value)
        return {"name": label, "table": table} if table else {"name": label, "tensor": names[id(value)]}
    if isinstance(value, bool | np.bool_):
        return {"name": label, "bool": bool(value)}
    if isinstance(value, str):
        return {"name": label, "text": value}
    if isinstance(value, np.float32):
        return {"name": label, "f32": float(value).hex()}
    if isinstance(value, float):
        return {"name": label, "f64": value.hex()}
    return {"name": label, "int": int(value)}


# -- from bytes -------------------------------------------------------------------------------------------------------


def read_document(folder: Path) -> dict[str, Any]:
    """The checked document of a case folder, without its tensors; :class:`InputError` with the remedy."""
    path = folder / "case.json"
    document = read_json(path, "regenerate the suite, or fetch it again")
    check_version(path, document)
    try:
        check(document, schema(), "case")
    except InputError as error:
        raise InputError(f"{path}: {error}; regenerate the suite") from None
    if document["level"] != document["id"].split("/")[0]:
        raise InputError(f"{path}: level {document['level']!r} is not that of id {document['id']!r}; regenerate the suite")
    for name, entry in document["tensors"].items():
        if entry["file"] != f"{name}.npy":
            raise InputError(f"{path}: tensor {name!r} is in {entry['file']!r}, not {name}.npy; regenerate the suite")
    checked: dict[str, Any] = document
    return checked


def check_version(path: Path, document: Any) -> None:
    """Refuse a case or a manifest of another schema or of another arithmetic, before anything else is said about it."""
    if not isinstance(document, dict):
        return  # the schema says so better
    version, arithmetic = document.get("schema", SCHEMA), document.get("arithmetic", ARITHMETIC)
    if version != SCHEMA:
        raise InputError(f"{path}: schema version {shown(version)}, this reader knows {SCHEMA}; use the matching release")
    if arithmetic != ARITHMETIC:
        raise InputError(f"{path}: arithmetic version {shown(arithmetic)}, this is {ARITHMETIC}; regenerate the suite")


def read_case(folder: Path) -> Case:
    """Read one case folder; :class:`InputError` names the file that is missing, extra, damaged or does not fit."""
    document = read_document(folder)
    entries = document["tensors"].items()
    values = {name: read_tensor(folder / entry["file"], entry["format"], tuple(entry["shape"])) for name, entry in entries}
    network = document["network"]
    held = network is not None and network["container"] != "released"
    files = {network["container"]: _read_bytes(folder / network["container"])} if held else {}
    known = {"case.json", *files, *(f"{name}.npy" for name in values)}
    extra = sorted(p.name for p in folder.iterdir() if p.name not in known)
    if extra:
        raise InputError(f"{folder / extra[0]}: does not belong to case {document['id']}; remove it")
    try:
        case = _case(document, values, files)
        check_structure(case)
    except InputError as error:
        raise InputError(f"{folder / 'case.json'}: {error}; regenerate the suite") from None
    return case


def _case(document: dict[str, Any], values: Mapping[str, Array], files: dict[str, bytes]) -> Case:
    tensors = {}
    for name, entry in document["tensors"].items():
        scale = None if "scale" not in entry else _number(entry["scale"], 64)
        tensors[name] = CaseTensor(entry["role"], entry["format"], values[name], scale, entry.get("zero_point"))
    network = None
    if document["network"] is not None:
        n = document["network"]
        chunks = None if n["chunks"] is None else tuple(n["chunks"])
        crc = {name: tuple(frames) for name, frames in n["crc32"].items()}
        network = Network(n["container"], n["sha256"], n["config"], chunks, crc)
    return Case(
        **{key: document[key] for key in ("id", "comment", "profile", "preset", "seed")},
        rules=tuple(document["rules"]),
        flags=tuple(document["flags"]),
        tensors=tensors,
        steps=tuple(_step(entry, tensors) for entry in document["steps"]),
        network=network,
        files=files,
    )


def _step(entry: dict[str, Any], tensors: Mapping[str, CaseTensor]) -> Step:
    refs = tuple(Ref(ref["tensor"], ref["past"], ref["current"]) for ref in entry["inputs"])
    constants = tuple(_value(constant, tensors) for constant in entry["constants"])
    return Step(entry["name"], entry["operator"], refs, constants, tuple(entry["outputs"]), entry["loop"])


def _value(entry: dict[str, Any], tensors: Mapping[str, CaseTensor]) -> Any:
    convert: dict[str, Callable[[Any], Any]] = {
        "tensor": lambda name: _array(name, tensors),
        "table": shipped,
        "int": int,
        "bool": bool,
        "text": str,
        "f32": lambda text: np.float32(_number(text, 32)),
        "f64": lambda text: _number(text, 64),
        "requantizer": lambda fields: _requantizer(fields, tensors),
    }
    kinds = [kind for kind in convert if kind in entry]
    if len(kinds) != 1:
        raise InputError(f"constant {entry['name']!r} has {len(kinds)} values")
    return convert[kinds[0]](entry[kinds[0]])


def _number(text: str, bits: int) -> float:
    """The value of a hexadecimal float, which must be a number of that many bits."""
    try:
        value = float.fromhex(text)
    except (ValueError, OverflowError):
        value = math.nan
    limit = float(np.finfo(np.float32).max)
    if not math.isfinite(value) or (bits == 32 and (abs(value) > limit or float(np.float32(value)) != value)):
        raise InputError(f"{shown(text)} is no FP{bits} number in hexadecimal")
    return value


def _array(name: str, tensors: Mapping[str, CaseTensor]) -> Array:
    if name not in tensors or tensors[name].role != "constant":
        raise InputError(f"no constant tensor named {name!r}")
    return tensors[name].values


def _requantizer(fields: dict[str, Any], tensors: Mapping[str, CaseTensor]) -> Requantizer:
    wanted = {"law", "pre_shift", "lowest", "highest", "offset", *FIELDS[fields["law"]]}
    if set(fields) != wanted:
        raise InputError(f"a requantizer of law {fields['law']} has the fields {', '.join(sorted(wanted))}")
    arrays = {key: _array(name, tensors) for key, name in fields.items() if isinstance(name, str) and key != "law"}
    if len({array.shape for array in arrays.values()}) != 1:
        raise InputError("the arrays of a requantizer differ in length")
    return requantizer(**(fields | arrays))


def requantizer(
    law: str, bias: Array, pre_shift: int = 0, lowest: int = 0, highest: int = 0, offset: int = 0, **arrays: Array
) -> Requantizer:
    """A :class:`Requantizer` by the law's name; arrays that the law does not read are zeros."""
    dtypes = {"multiplier": np.int32, "addend": np.int64, "shift": np.int32, "scale": np.float32}
    rest = {key: arrays.get(key, np.zeros(len(bias), dtype)) for key, dtype in dtypes.items()}
    return Requantizer(LAW_NAMES.index(law), pre_shift, lowest, highest, offset, bias, **rest)


def read_tensor(path: Path, form: str, shape: tuple[int, ...]) -> Array:
    """The array of a ``.npy`` file, C-contiguous; :class:`InputError` where dtype or shape differ from the case's."""
    found, fortran, dtype, body = parse_npy(path, _read_bytes(path))
    if dtype != np.dtype(DTYPES[form]) or found != shape:
        raise InputError(f"{path}: holds {dtype} {list(found)}, the case says {form} {list(shape)}; fetch it again")
    if fortran:
        raise InputError(f"{path}: is in Fortran order, a case is in C order; fetch it again")
    if len(body) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise InputError(f"{path}: {len(body)} bytes of data do not make {form} {list(shape)}; fetch it again")
    return np.frombuffer(body, dtype).reshape(shape)


def parse_npy(path: Path, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], bytes]:
    """Shape, whether Fortran order, dtype and the bytes behind the header of a ``.npy`` file (version 1.0).

    Nothing is allocated by what the header says; a pickled array is an object dtype that no caller accepts.
    """
    try:
        source = io.BytesIO(data)
        if np.lib.format.read_magic(source) != (1, 0):
            raise ValueError("not version 1.0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2: one line is all that an error may take
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(source)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a whole .npy file ({reason}); write or fetch it again") from None
    return shape, fortran, dtype, data[source.tell() :]


def _read_bytes(path: Path) -> bytes:
    if not path.is_file() or path.is_symlink():
        raise InputError(f"{path}: no such file; fetch the suite again")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than any file of a case; fetch it again")
    return path.read_bytes()


def read_json(path: Path, remedy: str) -> Any:
    """The document of a JSON file; :class:`InputError` with the remedy."""
    if not path.is_file() or path.is_symlink():
        raise InputError(f"{path}: no such file; {remedy}")
    try:
        return json.loads(_read_bytes(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({' '.join(str(error).split())}); {remedy}") from None


# -- suites -----------------------------------------------------------------------------------------------------------


def case_folder(root: Path, case_id: str) -> Path:
    """Where a case, or a file of one, lives below ``root``; refuses a path that would lead outside of it."""
    parts = case_id.split("/")
    if (
        parts[0] not in LEVELS
        or len(parts) < 2
        or not all(re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]", part) for part in parts)
    ):
        raise InputError(f"{shown(case_id)} is not the path of a case; use the ids of python -m golden_vectors list")
    return root.joinpath(*parts)


def manifest_of(digests: Mapping[str, str]) -> bytes:
    """The manifest: SHA-256 of every file of a suite by its path, sorted."""
    document = {"schema": SCHEMA, "arithmetic": ARITHMETIC, "files": dict(sorted(digests.items()))}
    return (json.dumps(document, indent=0) + "\n").encode()


def write_suite(root: Path, cases: Iterable[Case]) -> tuple[int, int]:
    """Write a whole suite to ``root`` or nothing; returns the numbers of cases and of bytes.

    The new folder takes the place of an old suite when it is complete. :class:`InputError` where ``root`` exists and is no
    suite, or a suite with files that its manifest does not name: nothing else is ever removed.
    """
    count, size, digests = 0, 0, {}
    with whole_folder(root, _check_replaceable) as partial:
        for case in cases:
            folder = case_folder(partial, case.id)
            folder.mkdir(parents=True)
            for name, data in encode(case).items():
                (folder / name).write_bytes(data)
                digests[f"{case.id}/{name}"] = hashlib.sha256(data).hexdigest()
                size += len(data)
            count += 1
        (partial / MANIFEST).write_bytes(manifest_of(digests))
    return count, size


def _check_replaceable(root: Path) -> None:
    """Refuse to replace anything but a suite, of whatever version, that holds nothing else."""
    refusal = f"{root}: exists and is no suite of golden vectors; name a new folder"
    try:
        document = read_json(root / MANIFEST, "")
    except InputError:
        raise InputError(refusal) from None
    if not (
        isinstance(document, dict) and isinstance(document.get("files"), dict) and {"schema", "arithmetic"} <= set(document)
    ):
        raise InputError(refusal)
    extra = sorted(files_below(root) - set(document["files"]))
    if extra:
        raise InputError(f"{root / extra[0]}: is not in the manifest and would be lost; move it, or name a new folder")


def files_below(root: Path) -> set[str]:
    """Every file and link below a suite's folder by its path from there, but the manifest."""
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_symlink() or not p.is_dir()}
    return found - {MANIFEST}


def read_manifest(root: Path) -> dict[str, str]:
    """Digest by path of a suite's files; :class:`InputError` where a path leads out of the suite."""
    path = root / MANIFEST
    document = read_json(path, "name a folder made by python -m golden_vectors generate")
    check_version(path, document)
    try:
        check(document, schema("manifest"), "manifest")
        for name in document["files"]:
            case_folder(root, name)
    except InputError as error:
        raise InputError(f"{path}: {error}; fetch the suite again") from None
    files: dict[str, str] = document["files"]
    return files


def case_ids(files: Iterable[str]) -> list[str]:
    """The ids of the cases among a manifest's paths, sorted."""
    return sorted(name.removesuffix("/case.json") for name in files if name.endswith("/case.json"))


def check_files(root: Path) -> list[str]:
    """Every file of the suite against its manifest; returns the ids of the cases.

    :class:`InputError` names the first file that is missing, extra or changed.
    """
    expected, present = read_manifest(root), files_below(root)
    for name in sorted(set(expected) - present):
        raise InputError(f"{root / name}: is missing; fetch or generate the suite again")
    for name in sorted(present - set(expected)):
        raise InputError(f"{root / name}: is not in the manifest; remove it")
    for name, digest in expected.items():
        if hashlib.sha256(_read_bytes(root / name)).hexdigest() != digest:
            raise InputError(f"{root / name}: its SHA-256 is not the manifest's; fetch or generate the suite again")
    return case_ids(expected)


def suite_case(root: Path, case_id: str) -> Case:
    """The case of that id; :class:`InputError` where its folder holds another one."""
    case = read_case(case_folder(root, case_id))
    if case.id != case_id:
        raise InputError(f"{case_folder(root, case_id)}: holds case {case.id}; fetch or generate the suite again")
    return case
