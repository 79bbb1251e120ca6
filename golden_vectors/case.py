"""One case: the only module that reads and writes case folders and the manifest.

A case is a folder: ``case.json`` (schema version 1, ``case.schema.json``) and one ``.npy`` file per tensor. Its steps are
operator calls over named tensors; roles say who owns a tensor: ``input`` and ``state`` (frames of the past, ``NAME.past``)
are given, ``constant`` belongs to a step, ``expected`` and ``next_state`` (``NAME.next``) are what a port must reproduce.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from golden_vectors.registry import parameter_names
from golden_vectors.schema import check, schema
from refimpl.errors import InputError
from refimpl.numerics.requantize import LAW_NAMES, Requantizer
from refimpl.numerics.tables import shipped
from refimpl.program import Format, Ref, Step
from refimpl.version import ARITHMETIC
from refimpl.weights_io import write_whole

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
SHIPPED = ("sigmoid_bf16", "tanh_bf16", "twiddle_q30", "hann_q30")  # the vectors numerics/shipped_table hold them
LARGEST_FILE = 64 << 20  # bytes of one tensor file; a reader refuses more before it allocates


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
    """The arrays that a law reads; the others are not stored."""
    return {
        "folded": ("bias", "multiplier", "addend", "shift"),
        "norm_twice": ("bias", "multiplier", "shift"),
        "bf16": ("bias", "scale"),
        "raw": ("bias",),
    }[LAW_NAMES[rq.law]]


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


def read_case(folder: Path) -> Case:
    """Read one case folder; :class:`InputError` names the file that is missing, extra, damaged or does not fit."""
    path = folder / "case.json"
    document = read_json(path, "regenerate the suite, or fetch it again")
    if isinstance(document, dict) and document.get("schema", SCHEMA) != SCHEMA:
        raise InputError(f"{path}: schema version {document['schema']!r}, this reader knows {SCHEMA}; use the matching release")
    try:
        check(document, schema(), "case")
    except InputError as error:
        raise InputError(f"{path}: {error}; regenerate the suite") from None
    if document["arithmetic"] != ARITHMETIC:
        raise InputError(f"{path}: arithmetic version {document['arithmetic']}, this is {ARITHMETIC}; regenerate the suite")
    if document["level"] != document["id"].split("/")[0]:
        raise InputError(f"{path}: level {document['level']!r} is not that of id {document['id']!r}; regenerate the suite")
    tensors = {}
    for name, entry in document["tensors"].items():
        if entry["file"] != f"{name}.npy":
            raise InputError(f"{path}: tensor {name!r} is in {entry['file']!r}, not {name}.npy; regenerate the suite")
        values = read_tensor(folder / entry["file"], entry["format"], tuple(entry["shape"]))
        scale = None if "scale" not in entry else float.fromhex(entry["scale"])
        tensors[name] = CaseTensor(entry["role"], entry["format"], values, scale, entry.get("zero_point"))
    network, files = None, {}
    if document["network"] is not None:
        n = document["network"]
        chunks = None if n["chunks"] is None else tuple(n["chunks"])
        crc = {name: tuple(values) for name, values in n["crc32"].items()}
        network = Network(n["container"], n["sha256"], n["config"], chunks, crc)
        if n["container"] != "released":
            files[n["container"]] = _read_bytes(folder / n["container"])
    known = {"case.json", *files, *(f"{name}.npy" for name in tensors)}
    extra = sorted(p.name for p in folder.iterdir() if p.name not in known)
    if extra:
        raise InputError(f"{folder / extra[0]}: does not belong to case {document['id']}; remove it")
    try:
        steps = tuple(_step(entry, tensors) for entry in document["steps"])
    except KeyError as error:
        raise InputError(f"{path}: no constant tensor named {error}; regenerate the suite") from None
    keys = ("id", "comment", "profile", "preset", "seed")
    return Case(
        **{key: document[key] for key in keys},
        rules=tuple(document["rules"]),
        flags=tuple(document["flags"]),
        tensors=tensors,
        steps=steps,
        network=network,
        files=files,
    )


def _step(entry: dict[str, Any], tensors: Mapping[str, CaseTensor]) -> Step:
    refs = tuple(Ref(ref["tensor"], ref["past"], ref["current"]) for ref in entry["inputs"])
    constants = tuple(_value(constant, tensors) for constant in entry["constants"])
    return Step(entry["name"], entry["operator"], refs, constants, tuple(entry["outputs"]), entry["loop"])


def _value(entry: dict[str, Any], tensors: Mapping[str, CaseTensor]) -> Any:
    convert: dict[str, Callable[[Any], Any]] = {
        "tensor": lambda name: tensors[name].values,
        "table": shipped,
        "int": int,
        "bool": bool,
        "text": str,
        "f32": lambda text: np.float32(float.fromhex(text)),
        "f64": float.fromhex,
        "requantizer": lambda fields: _requantizer(fields, tensors),
    }
    for kind, make in convert.items():
        if kind in entry:
            return make(entry[kind])
    raise InputError(f"constant {entry['name']!r} has no value; regenerate the suite")


def _requantizer(fields: dict[str, Any], tensors: Mapping[str, CaseTensor]) -> Requantizer:
    arrays = {key: tensors[name].values for key, name in fields.items() if isinstance(name, str) and key != "law"}
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
    data = _read_bytes(path)
    try:
        source = io.BytesIO(data)
        if np.lib.format.read_magic(source) != (1, 0):
            raise ValueError("not version 1.0")
        found, fortran, dtype = np.lib.format.read_array_header_1_0(source)
        body = data[source.tell() :]
    except ValueError as error:
        raise InputError(f"{path}: not a whole .npy file ({' '.join(str(error).split())}); fetch it again") from None
    if dtype != np.dtype(DTYPES[form]) or found != shape:
        raise InputError(f"{path}: holds {dtype} {list(found)}, the case says {form} {list(shape)}; fetch it again")
    if fortran or len(body) != int(np.prod(shape, dtype=object)) * dtype.itemsize:
        raise InputError(f"{path}: {len(body)} bytes of data do not make {form} {list(shape)}; fetch it again")
    return np.frombuffer(body, dtype).reshape(shape)


def _read_bytes(path: Path) -> bytes:
    if not path.is_file() or path.is_symlink():
        raise InputError(f"{path}: no such file; fetch the suite again")
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than any tensor of a case; fetch it again")
    return path.read_bytes()


def read_json(path: Path, remedy: str) -> Any:
    """The document of a JSON file; :class:`InputError` with the remedy."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({' '.join(str(error).split())}); {remedy}") from None


# -- suites -----------------------------------------------------------------------------------------------------------


def case_folder(root: Path, case_id: str) -> Path:
    """Where a case lives below ``root``; refuses an id that would lead outside of it."""
    parts = PurePosixPath(case_id).parts
    if not parts or parts[0] not in LEVELS or any(part in ("..", ".") or part.startswith("/") for part in parts):
        raise InputError(f"case id {case_id!r} is not a path below a level; use the ids of python -m golden_vectors list")
    return root.joinpath(*parts)


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """The manifest: SHA-256 of every file of a suite by its path, sorted."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    document = {"schema": SCHEMA, "arithmetic": ARITHMETIC, "files": digests}
    return (json.dumps(document, indent=0) + "\n").encode()


def write_suite(root: Path, cases: Iterator[Case]) -> int:
    """Write a whole suite to ``root`` or nothing: a new folder takes the place of the old one; returns the number of cases.

    :class:`InputError` where ``root`` exists and is no suite (nothing else is ever removed).
    """
    if root.exists() and not (root / MANIFEST).is_file() and any(root.iterdir()):
        raise InputError(f"{root}: exists and is no suite of golden vectors; name a new folder")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".", suffix=".partial", dir=root.parent))
    except OSError as error:
        raise InputError(f"{root}: cannot write here ({error.strerror}); name another folder") from None
    count, files = 0, {}
    try:
        for case in cases:
            folder = case_folder(partial, case.id)
            folder.mkdir(parents=True)
            for name, data in encode(case).items():
                (folder / name).write_bytes(data)
                files[f"{case.id}/{name}"] = data
            count += 1
        write_whole(partial / MANIFEST, manifest_of(files))
        partial.chmod(0o755)
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return count


def read_manifest(root: Path) -> dict[str, str]:
    """Digest by path of a suite's files."""
    path = root / MANIFEST
    document = read_json(path, "name a folder made by python -m golden_vectors generate")
    try:
        check(document, schema("manifest"), "manifest")
    except InputError as error:
        raise InputError(f"{path}: {error}; fetch the suite again") from None
    files: dict[str, str] = document["files"]
    return files


def check_files(root: Path) -> list[str]:
    """Every file of the suite against its manifest; returns the ids of the cases.

    :class:`InputError` names the first file that is missing, extra or changed.
    """
    expected = read_manifest(root)
    for name in expected:
        case_folder(root, name)
    present = {str(p.relative_to(root).as_posix()) for p in root.rglob("*") if p.is_file() or p.is_symlink()} - {MANIFEST}
    for name in sorted(set(expected) - present):
        raise InputError(f"{root / name}: is missing; fetch or generate the suite again")
    for name in sorted(present - set(expected)):
        raise InputError(f"{root / name}: is not in the manifest; remove it")
    for name, digest in expected.items():
        if hashlib.sha256(_read_bytes(root / name)).hexdigest() != digest:
            raise InputError(f"{root / name}: its SHA-256 is not the manifest's; fetch or generate the suite again")
    return sorted(name.removesuffix("/case.json") for name in expected if name.endswith("/case.json"))
