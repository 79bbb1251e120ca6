"""Golden vectors: the format, its schema, the manifest, what is refused, and the command line."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from golden_vectors import __main__ as command
from golden_vectors.__main__ import main
from golden_vectors.case import (
    DTYPES,
    FIELDS,
    LARGEST_FILE,
    LEVELS,
    SCHEMA,
    SHIPPED,
    Case,
    case_folder,
    check_files,
    encode,
    npy,
    read_case,
    readable,
    suite_case,
    write_suite,
)
from golden_vectors.execute import first_difference, verify
from golden_vectors.export import FORMATS
from golden_vectors.folders import whole_folder
from golden_vectors.layouts import LAYOUTS, WEIGHT_AXES
from golden_vectors.schema import KNOWN, check, schema
from golden_vectors.suite import SUITES
from refimpl.errors import InputError
from refimpl.version import ARITHMETIC
from tests.golden_small import case_named, crash, small_cases
from tests.tiny import refused, tree

Array = np.ndarray[Any, np.dtype[Any]]
IDS = [case.id for case in small_cases()]
FC = "operators/fully_connected_channels/small"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    root = tmp_path / "suite"
    write_suite(root, small_cases())
    return root


def remanifest(root: Path) -> None:
    """A manifest of what is there now, so that only the readers can notice what was changed."""
    files = {
        p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != "manifest.json"
    }
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (root / "manifest.json").write_text(json.dumps({"schema": SCHEMA, "arithmetic": ARITHMETIC, "files": digests}))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# -- the format ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", small_cases(), ids=IDS)
def test_write_read_write_is_the_identity(case: Case, tmp_path: Path) -> None:
    files = encode(case)
    folder = case_folder(tmp_path, case.id)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    back = read_case(folder)
    assert encode(back) == files
    for name, tensor in case.tensors.items():
        read = back.tensors[name]
        assert read.values.tobytes() == tensor.values.tobytes() and read.values.shape == tensor.values.shape, name
        assert (read.role, read.format, read.scale, read.zero_point) == (
            tensor.role, tensor.format, tensor.scale, tensor.zero_point,
        )  # fmt: skip
    assert verify(back) is None


def test_the_bytes_of_a_tensor_file_are_pinned() -> None:
    data = npy(np.array([[1, -2]], np.int16), "int16")
    text = b"{'descr': '<i2', 'fortran_order': False, 'shape': (1, 2), }"
    assert data == b"\x93NUMPY\x01\x00\x76\x00" + text + b" " * (117 - len(text)) + b"\n" + b"\x01\x00\xfe\xff"
    assert np.array_equal(np.load(io.BytesIO(data)), [[1, -2]])


def test_an_authors_mistakes_are_no_input_errors() -> None:
    with pytest.raises(ValueError, match=r"int8 is int8, not int16"):
        npy(np.zeros(3, np.int16), "int8")
    case = case_named("fully_connected_channels/small")
    wide = replace(case.tensors["x"], values=np.zeros((1, 1, LARGEST_FILE), np.int8))
    with pytest.raises(ValueError, match=r"x.npy has \d+ bytes"):
        encode(replace(case, tensors={**case.tensors, "x": wide}))
    with pytest.raises(ValueError, match="looks like a list"):
        readable({"comment": "a [ b ,  c ] d"})
    with pytest.raises(InputError, match=r"operators/.*: .*rules.* is empty|operators.*rules is empty"):
        encode(replace(case, rules=()))


def test_a_changed_bit_is_found_and_named() -> None:
    case = case_named("fully_connected_channels/small")
    y = case.tensors["y"].values.copy()
    y[1, 2, 0] ^= 1
    found = verify(case.with_values({"y": y}))
    assert found is not None and found.startswith("y[1][2][0] is ") and found.endswith("1 of 36 differ")
    case = case_named("stream/small")
    state = case.tensors["tail.next"].values.copy()
    state[0, 1, 63] += 1
    assert (verify(case.with_values({"tail.next": state})) or "").startswith("tail.next[0][1][63] is ")


def test_networks_compare_their_crcs() -> None:
    case = case_named("network/tiny/offline")
    assert case.network is not None and len(case.network.crc32) > 20
    name = list(case.network.crc32)[5]
    changed = {**case.network.crc32, name: (*case.network.crc32[name][:2], "00000000", *case.network.crc32[name][3:])}
    assert verify(replace(case, network=replace(case.network, crc32=changed))) == f"{name}: CRC-32 of frame 2 differs"


def test_nan_is_one_value_and_zeros_are_two() -> None:
    case = case_named("quantize_f32/small")
    x = case.tensors["x"].values
    expected = replace(case, tensors={"y": replace(case.tensors["x"], role="expected")})
    other = x.copy()
    other[np.isnan(other)] = np.nan
    assert first_difference(expected, {"y": other}) is None and other.tobytes() != x.tobytes()
    other[0, 2, 0] = 0.0
    assert np.signbit(x[0, 2, 0]) and (first_difference(expected, {"y": other}) or "").startswith("y[0][2][0] is 0.0")


# -- the schema ---------------------------------------------------------------------------------------------------------


@cache
def documents() -> list[Any]:
    """Every case's document; nobody changes them."""
    return [json.loads(encode(case)["case.json"]) for case in small_cases()]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda v: not v.is_integer()),
    st.text(max_size=5),
    st.sampled_from(["int8", "input", "folded", "0x1.0p+0", "x.npy", "numerics", "1", "a/b", "../x", "G-2"]),
)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3), max_leaves=5
)


def mutate(document: Any, data: st.DataObject) -> Any:
    """The document with one place removed, replaced, or given one more item."""
    path = data.draw(st.sampled_from(list(places(document))))
    if not path:
        return data.draw(values)
    document = copy.deepcopy(document)
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    what = data.draw(st.sampled_from(["remove", "replace", "add"]))
    if what == "remove":
        del holder[path[-1]]
    elif what == "replace":
        holder[path[-1]] = data.draw(values)
    elif isinstance(holder, list):
        holder.append(data.draw(values))
    else:
        holder[data.draw(st.text(min_size=1, max_size=8))] = data.draw(values)
    return document


def accepts(document: Any, name: str = "case") -> bool:
    try:
        check(document, schema(name), "document")
    except InputError:
        return False
    return True


def newline_ends(value: Any) -> bool:
    """Python's ``$``, which jsonschema uses, matches before a last newline too; ECMA's, which the standard names, does not."""
    if isinstance(value, dict):
        return any(newline_ends(item) for item in value.values())
    return any(map(newline_ends, value)) if isinstance(value, list) else isinstance(value, str) and value.endswith("\n")


def test_schemas_are_valid_and_within_the_checker() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for name in ("case", "manifest"):
        jsonschema.Draft202012Validator.check_schema(schema(name))
        for path in places(schema(name)):
            rules = schema(name)
            for key in path:
                rules = rules[key]
            if isinstance(rules, dict) and not (path and path[-1] == "properties"):
                assert set(rules) <= KNOWN, path


def test_the_checker_agrees_with_jsonschema_on_valid_documents(suite: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    for document in documents():
        jsonschema.Draft202012Validator(schema()).validate(document)
        assert accepts(document)
    manifest = json.loads((suite / "manifest.json").read_text())
    jsonschema.Draft202012Validator(schema("manifest")).validate(manifest)
    assert accepts(manifest, "manifest")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_the_checker_agrees_with_jsonschema_on_changed_documents(data: st.DataObject) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = mutate(data.draw(st.sampled_from(documents())), data)
    for _ in range(data.draw(st.integers(0, 2))):
        if isinstance(document, dict) and document:
            document = mutate(document, data)
    assume(not newline_ends(document))
    assert accepts(document) == jsonschema.Draft202012Validator(schema()).is_valid(document)


def test_the_checker_refuses_a_schema_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="oneOf"):
        check({}, {"oneOf": []}, "x")
    assert not accepts(json.loads(encode(small_cases()[0])["case.json"]) | {"id": "numerics/a\n"})


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_changed_document_is_read_or_refused_in_one_line(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is changed in a case.json, nothing but an InputError of one bounded line comes out of the reader."""
    case = data.draw(st.sampled_from(small_cases()))
    files = encode(case)
    folder = tmp_path_factory.mktemp("case")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "case.json").write_text(json.dumps(mutate(json.loads(files["case.json"]), data)))
    try:
        read_case(folder)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


# -- suites on disk -----------------------------------------------------------------------------------------------------


def test_a_suite_is_the_same_bytes_again(suite: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert write_suite(again, small_cases()) == (len(IDS), sum(p.stat().st_size for p in case_files(again)))
    assert tree(again) == tree(suite) and check_files(suite) == sorted(IDS)
    for case_id in IDS:
        assert suite_case(suite, case_id).id == case_id


def case_files(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json"]


class Stop(BaseException):
    """An interrupt, or anything else that is no Exception."""


def broken(error: BaseException) -> Iterator[Case]:
    yield from small_cases()[:3]
    raise error


@pytest.mark.parametrize(
    "error", [Stop(), KeyboardInterrupt(), InputError("x"), OSError(28, "No space left on device")], ids=repr
)
def test_an_interrupt_leaves_the_old_suite(error: BaseException, suite: Path) -> None:
    before = tree(suite.parent)
    with pytest.raises(type(error)):
        write_suite(suite, broken(error))
    assert tree(suite.parent) == before
    with pytest.raises(type(error)):
        write_suite(suite.parent / "new", broken(error))
    assert tree(suite.parent) == before


def test_an_interrupt_while_folders_change_places_leaves_the_old_suite(suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename, calls = tree(suite.parent), Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(KeyboardInterrupt):
        write_suite(suite, small_cases()[:2])
    assert len(calls) == 3 and tree(suite.parent) == before


def test_a_new_suite_takes_the_place_of_the_old(suite: Path) -> None:
    write_suite(suite, small_cases()[:2])
    assert check_files(suite) == sorted(IDS[:2]) and list(suite.parent.iterdir()) == [suite]
    assert not suite.stat().st_mode & 0o002 and suite.stat().st_mode & 0o500 == 0o500
    (suite.parent / "empty").mkdir()
    write_suite(suite.parent / "empty", small_cases()[:1])
    assert check_files(suite.parent / "empty") == IDS[:1]


def test_an_old_suite_of_another_version_is_replaced(suite: Path) -> None:
    edit(suite / "manifest.json", lambda d: d.update(schema=99, arithmetic="0"))
    write_suite(suite, small_cases()[:1])
    assert check_files(suite) == IDS[:1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: (p.mkdir(), (p / "thesis.txt").write_text("x")), "is no suite"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text('{"name": "web app"}')), "is no suite"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text("{")), "is no suite"),
        (lambda p: p.write_text("x"), "is a file"),
        (lambda p: p.symlink_to("."), "is a link"),
        (
            lambda p: (write_suite(p, small_cases()[:1]), (p / "notes.txt").write_text("mine")),
            "notes.txt: is not in the manifest",
        ),
    ],
)
def test_nothing_but_a_suite_is_replaced(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    make(target)
    before = tree(tmp_path)
    with pytest.raises(InputError, match=words):
        write_suite(target, small_cases()[:2])
    assert tree(tmp_path) == before
    with pytest.raises(InputError, match="its folder does not exist"):
        write_suite(tmp_path / "a" / "b", small_cases()[:2])
    with pytest.raises(FileExistsError):
        write_suite(tmp_path / "twice", [small_cases()[0]] * 2)
    assert tree(tmp_path) == before


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(**options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refusing)
    with pytest.raises(InputError, match=r"new: cannot write here \(Permission denied\)"), whole_folder(tmp_path / "new"):
        pass


OUTSIDE = ("../../x", "/etc/x", "numerics/../../x", "numerics", "numerics//x", "numerics/./x", "numerics/x/..", "other/x", "",
           "numerics/a b", "numerics/x\n", "C:/x", "numerics\\x/y", "numerics/\0")  # fmt: skip


@pytest.mark.parametrize("case_id", OUTSIDE)
def test_ids_lead_nowhere_else(case_id: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the path of a case"):
        case_folder(tmp_path, case_id)


# -- bad input ----------------------------------------------------------------------------------------------------------


def _put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda root: (root / FC / name).write_bytes(data)


def _document(case_id: str = FC, **fields: object) -> Callable[[Path], object]:
    return lambda root: edit(root / case_id / "case.json", lambda d: d.update(fields))


def _x_is_in(file: str) -> Callable[[Path], object]:
    return lambda root: edit(root / FC / "case.json", lambda d: d["tensors"]["x"].update(file=file))


def _a_link_to(target: str) -> Callable[[Path], object]:
    """x.npy replaced by a link to a file outside of the suite, which x.npy becomes if it is not there."""

    def damage(root: Path) -> None:
        (root / FC / "x.npy").rename(root.parent / "moved.npy")
        (root / FC / "x.npy").symlink_to(target)

    return damage


def _fortran(root: Path) -> None:
    sink = io.BytesIO()
    np.save(sink, np.asfortranarray(np.load(root / FC / "x.npy")))
    (root / FC / "x.npy").write_bytes(sink.getvalue())


def _pickled(root: Path) -> None:
    np.save(root / FC / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)


def _header(text: str, version: bytes = b"\x01\x00") -> bytes:
    body = text.encode().ljust(max(64 * -(-(len(text) + 11) // 64) - 11, 0)) + b"\n"
    return b"\x93NUMPY" + version + len(body).to_bytes(2, "little") + body


HEADER = "{{'descr': '|i1', 'fortran_order': False, 'shape': {}, }}"
BIG_ENDIAN = "{'descr': '>i4', 'fortran_order': False, 'shape': (3,), }"
DEEP = b'{"schema": ' + b"[" * 400 + b"]" * 400 + b"}"

# What is done to a suite, the file that the error must name, and words of it. The manifest is made anew after each.
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "tensor missing": (lambda r: (r / FC / "x.npy").unlink(), f"{FC}/x.npy", "no such file"),
    "tensor renamed": (lambda r: (r / FC / "x.npy").rename(r / FC / "z.npy"), f"{FC}/x.npy", "no such file"),
    "file extra": (_put("notes.txt", b""), f"{FC}/notes.txt", "does not belong"),
    "folder extra": (lambda r: (r / FC / "more").mkdir(), f"{FC}/more", "does not belong"),
    "tensor truncated": (_put("x.npy", npy(np.zeros((3, 4, 5), np.int8), "int8")[:-1]), f"{FC}/x.npy", "59 bytes of data"),
    "tensor longer": (_put("x.npy", npy(np.zeros((3, 4, 5), np.int8), "int8") + b"0"), f"{FC}/x.npy", "61 bytes of data"),
    "tensor empty": (_put("x.npy", b""), f"{FC}/x.npy", "not a whole .npy"),
    "header truncated": (_put("x.npy", npy(np.zeros(3, np.int8), "int8")[:30]), f"{FC}/x.npy", "not a whole .npy"),
    "no npy": (_put("x.npy", b"x" * 200), f"{FC}/x.npy", "not a whole .npy"),
    "version 2": (_put("x.npy", _header(HEADER.format("(3, 4, 5)"), b"\x02\x00")), f"{FC}/x.npy", "not version 1.0"),
    "wrong shape": (_put("x.npy", npy(np.zeros((3, 5, 4), np.int8), "int8")), f"{FC}/x.npy", "int8 [3, 5, 4]"),
    "wrong dtype": (_put("x.npy", npy(np.zeros((3, 4, 5), np.uint8), "uint8")), f"{FC}/x.npy", "uint8 [3, 4, 5]"),
    "wrong byte order": (_put("y.rq.bias.npy", _header(BIG_ENDIAN) + bytes(12)), f"{FC}/y.rq.bias.npy", "holds >i4"),
    "fortran order": (_fortran, f"{FC}/x.npy", "Fortran order"),
    "pickle": (_pickled, f"{FC}/x.npy", "holds object"),
    "huge shape": (_put("x.npy", _header(HEADER.format("(1000000000, 1000000000)"))), f"{FC}/x.npy", "1000000000"),
    "huge header": (_put("x.npy", _header("(" * 60000)), f"{FC}/x.npy", "not a whole .npy"),
    "deep header": (_put("x.npy", _header("(" * 4000 + ")" * 4000)), f"{FC}/x.npy", "not a whole .npy"),
    "minus header": (_put("x.npy", _header("-" * 9000 + "1")), f"{FC}/x.npy", "not a whole .npy"),
    "negative shape": (_put("x.npy", _header(HEADER.format("(-1, 4, 5)"))), f"{FC}/x.npy", "[-1, 4, 5]"),
    "header of Python 2": (_put("x.npy", _header(HEADER.format("(3L, 4L, 6L)"))), f"{FC}/x.npy", "[3, 4, 6]"),
    "tensor a link": (_a_link_to("/etc/passwd"), f"{FC}/x.npy", "no such file"),
    "not JSON": (_put("case.json", b'{"schema": 1,'), f"{FC}/case.json", "not JSON"),
    "not UTF-8": (_put("case.json", b'"\xff"'), f"{FC}/case.json", "not JSON"),
    "not an object": (_put("case.json", b"[1]"), f"{FC}/case.json", "is list, not object"),
    "deep nesting": (_put("case.json", b"[" * 100000 + b"]" * 100000), f"{FC}/case.json", "not JSON"),
    "nesting within JSON": (_put("case.json", DEEP), f"{FC}/case.json", "schema version [["),
    "long number": (_put("case.json", b'{"schema": ' + b"1" * 10000 + b"}"), f"{FC}/case.json", "not JSON"),
    "unknown schema": (_document(schema=2), f"{FC}/case.json", "schema version 2"),
    "other arithmetic": (_document(arithmetic="2"), f"{FC}/case.json", "arithmetic version '2'"),
    "id of another": (_document(id="operators/other"), FC, "holds case operators/other"),
    "id outside": (_document(id="operators/../../x"), f"{FC}/case.json", "does not match"),
    "level of another": (_document(level="lstm"), f"{FC}/case.json", "level 'lstm'"),
    "tensor outside": (_x_is_in("../x.npy"), f"{FC}/case.json", "does not match"),
    "tensor of another file": (_x_is_in("y.npy"), f"{FC}/case.json", "not x.npy"),
    "case missing": (lambda r: (r / FC / "case.json").unlink(), FC, "belongs to no case"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_in_one_line(what: str, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a manifest that matches, and with the old one; nothing is written anywhere."""
    damage, name, words = DAMAGE[what]
    damage(suite)
    before = tree(suite.parent)
    refused(main, ["verify", suite, "--jobs", 1], capsys)
    refused(main, ["export", suite, "--format", "bin", "--out", suite.parent / "out"], capsys)
    assert tree(suite.parent) == before
    remanifest(suite)
    line = refused(main, ["export", suite, "--format", "bin", "--out", suite.parent / "out"], capsys, str(suite / name), words)
    assert len(line) < 1000
    if what != "case missing":
        refused(main, ["verify", suite, "--jobs", 1], capsys, str(suite / name), words)


def step(document: Any) -> Any:
    return document["steps"][0]


def constant(document: Any, name: str) -> Any:
    return next(c for c in step(document)["constants"] if c["name"] == name)


def _x_becomes(values: Array) -> Callable[[Any], object]:
    """x with other values; the test writes them to its file."""
    name = values.dtype.name
    return lambda d: d["tensors"]["x"].update(format=name, shape=list(values.shape))


def _weight_is_a_number(document: Any) -> None:
    del constant(document, "weight")["tensor"]
    constant(document, "weight")["int"] = 3


def _inverse_scale(text: str) -> tuple[str, Callable[[Any], object], str]:
    return "operators/quantize_f32/small", lambda d: constant(d, "inverse_scale").update(f32=text), "is no FP32 number"


# Documents that the schema accepts and that cannot be run: the case, the change, words of the error.
MISFITS: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "operator": (FC, lambda d: step(d).update(operator="fully_connected"), "operator 'fully_connected' is unknown"),
    "parameters": (FC, lambda d: step(d)["constants"].pop(), "does not have the parameters"),
    "constant tensor": (FC, lambda d: constant(d, "weight").update(tensor="w"), "no constant tensor named 'w'"),
    "constant role": (FC, lambda d: constant(d, "weight").update(tensor="x"), "no constant tensor named 'x'"),
    "constant without value": (FC, lambda d: constant(d, "weight").pop("tensor"), "has 0 values"),
    "constant with two": (FC, lambda d: constant(d, "weight").update(int=1), "has 2 values"),
    "constant of another kind": (FC, _weight_is_a_number, "does not run (TypingError: "),
    "law": (FC, lambda d: constant(d, "rq")["requantizer"].update(law="bf16"), "law bf16 has the fields"),
    "law's array": (FC, lambda d: constant(d, "rq")["requantizer"].pop("shift"), "law folded has the fields"),
    "array's length": (FC, lambda d: constant(d, "rq")["requantizer"].update(shift="y.weight"), "differ in length"),
    "input": (FC, lambda d: step(d)["inputs"][0].update(tensor="z"), "reads 'z', which nothing gives"),
    "neither now nor past": (FC, lambda d: step(d)["inputs"][0].update(current=False), "reads 'x'"),
    "output": (FC, lambda d: step(d).update(outputs=["x"]), "writes 'x'"),
    "no steps": (FC, lambda d: d.update(steps=[]), "neither steps nor a network"),
    "no input": (FC, lambda d: d["tensors"]["x"].update(role="state"), "no input tensor"),
    "format": (FC, lambda d: d["tensors"]["x"].update(format="uint8"), "holds int8"),
    "float": _inverse_scale("fast"),
    "large float": _inverse_scale("0x1p+9999"),
    "wide float": _inverse_scale("0x1p+200"),
    "long float": _inverse_scale("0x1.0000000001p+0"),
    "infinite": _inverse_scale("inf"),
    "large scale": (FC, lambda d: d["tensors"]["x"].update(scale="0x1.0p+9999"), "is no FP64 number"),
    "mixed": ("stream/small", lambda d: d["steps"].append(dict(step(d), operator="shift_floor")), "functions and operators"),
    "twice": ("stream/small", lambda d: d["steps"].append(step(d)), "not a tensor of role expected of its own"),
    "past": ("stream/small", lambda d: step(d)["inputs"][1].update(past=2), "is not 2 frames of int32"),
    "no past": ("stream/small", lambda d: d["tensors"]["tail.past"].update(role="constant"), "no state tensor 'tail.past'"),
    "lost state": ("stream/small", lambda d: step(d)["inputs"][1].update(past=0, current=True), "is read by no step"),
    "nobody's past": ("stream/small", lambda d: step(d)["inputs"][1].update(tensor="tail.past"), "the past of 'tail.past'"),
    "nobody's tensor": ("stream/small", lambda d: d["tensors"]["tail.next"].update(role="expected"), "is written by no step"),
    "format of no operator": ("operators/conv_causal/small", _x_becomes(np.zeros((4, 5, 3), np.int64)), "no operator reads"),
    "no frames": ("operators/conv_causal/small", _x_becomes(np.zeros((), np.int8)), "a tensor without frames"),
    "other frames": ("operators/conv_causal/small", _x_becomes(np.zeros((3, 5, 3), np.int8)), "tensors of 3, 4 frames"),
    "no PCM": ("network/tiny/offline", lambda d: d["tensors"]["pcm_in"].update(role="state"), "a network case needs 'pcm_in'"),
    "preset": ("network/tiny/offline", lambda d: d.update(preset=None), "needs a shipped preset"),
    "unknown preset": ("network/tiny/offline", lambda d: d.update(preset="/etc/x.json"), "needs a shipped preset"),
    "unknown profile": ("network/tiny/offline", lambda d: d.update(profile="abacus"), "and a profile"),
    "chunks": ("network/tiny/chunks", lambda d: d["network"].update(chunks=[1]), "do not add up"),
    "no chunks": ("network/tiny/chunks", lambda d: d["network"].update(chunks=None), "go together"),
    "digest": ("network/tiny/offline", lambda d: d["network"].update(sha256="0" * 64), "is not the container of its digest"),
    "release": ("network/tiny/offline", lambda d: d["network"].update(container="released"), "weights.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISFITS)
def test_cases_that_cannot_run_are_refused(what: str, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case_id, change, words = MISFITS[what]
    edit(suite / case_id / "case.json", change)
    x = json.loads((suite / case_id / "case.json").read_text())["tensors"].get("x")
    if x is not None and what != "format":
        (suite / case_id / "x.npy").write_bytes(npy(np.zeros(x["shape"], DTYPES[x["format"]]), x["format"]))
    remanifest(suite)
    refused(main, ["verify", suite, "--jobs", 1, "--only", case_id], capsys, case_id, words)


def test_released_weights_of_another_digest(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = suite / "network/tiny/offline"
    edit(folder / "case.json", lambda d: d["network"].update(container="released"))
    (folder / "weights.safetensors").unlink()
    remanifest(suite)
    refused(main, ["verify", suite, "--jobs", 1, "--only", "network/*"], capsys, "network/tiny/offline", "this release ships")


def _files(change: Callable[[dict[str, str]], object]) -> Callable[[Path], object]:
    return lambda root: edit(root / "manifest.json", lambda d: change(d["files"]))


def _linked_manifest(root: Path) -> None:
    (root / "manifest.json").rename(root.parent / "manifest.json")
    (root / "manifest.json").symlink_to("../manifest.json")


def _linked_level(root: Path) -> None:
    (root / "layers").symlink_to(root.parent)
    _files(lambda f: f.update({"layers/secret": "0" * 64}))(root)


MANIFESTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda r: (r / "manifest.json").unlink(), "manifest.json: no such file"),
    "not JSON": (lambda r: (r / "manifest.json").write_text("{"), "manifest.json: not JSON"),
    "a link": (_linked_manifest, "no such file"),
    "a list": (lambda r: (r / "manifest.json").write_text("[]"), "is list, not object"),
    "schema": (lambda r: edit(r / "manifest.json", lambda d: d.update(schema=7)), "schema version 7"),
    "arithmetic": (lambda r: edit(r / "manifest.json", lambda d: d.update(arithmetic="7")), "arithmetic version '7'"),
    "digest": (_files(lambda f: f.update({f"{FC}/x.npy": "0" * 64})), f"{FC}/x.npy: its SHA-256 is not"),
    "no digest": (_files(lambda f: f.update({f"{FC}/x.npy": "sha"})), "does not match"),
    "missing file": (_files(lambda f: f.update({f"{FC}/z.npy": "0" * 64})), f"{FC}/z.npy: is missing"),
    "extra file": (_files(lambda f: f.pop(f"{FC}/x.npy")), f"{FC}/x.npy: is not in the manifest"),
    "outside": (_files(lambda f: f.update({"../../x": "0" * 64})), "'../../x' is not the path of a case"),
    "absolute": (_files(lambda f: f.update({"/etc/passwd": "0" * 64})), "'/etc/passwd' is not the path of a case"),
    "through a level": (_files(lambda f: f.update({"numerics/../../../etc/passwd": "0" * 64})), "is not the path of a case"),
    "a folder that is a link": (_linked_level, "layers/secret: is missing"),
    "an extra link": (lambda r: (r / "numerics" / "link").symlink_to(r.parent), "numerics/link: is not in the manifest"),
    "a file that is a link": (_a_link_to("../../../../moved.npy"), f"{FC}/x.npy: no such file"),
}  # fmt: skip


@pytest.mark.parametrize("what", MANIFESTS)
def test_manifests_are_held_to(what: str, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, words = MANIFESTS[what]
    (suite.parent / "secret").write_text("x")
    damage(suite)
    before = tree(suite.parent)
    refused(main, ["verify", suite], capsys, words)
    refused(main, ["export", suite, "--format", "c", "--out", suite.parent / "out"], capsys, words)
    assert tree(suite.parent) == before


def test_files_too_large_are_not_read(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.npy", "case.json"):
        path = suite / FC / name
        data = path.read_bytes()
        with path.open("r+b") as sink:
            sink.truncate(LARGEST_FILE + 1)
        refused(main, ["verify", suite], capsys, f"{FC}/{name}", "more than any file of a case")
        if name == "case.json":
            refused(main, ["list", suite], capsys, f"{FC}/{name}", "more than any file of a case")
        path.write_bytes(data)


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def generating(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """``generate`` makes the small cases; returns where the committed suite would be."""
    monkeypatch.setattr(command, "cases", lambda suite: iter(small_cases() if suite == "committed" else small_cases()[:2]))
    monkeypatch.setattr(command, "FOLDER", tmp_path / "cases")
    return tmp_path / "cases"


def test_generate(generating: Path, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate"]) == 0
    captured = capsys.readouterr()
    size = sum(p.stat().st_size for p in case_files(generating))
    assert captured.out == f"{generating}: {len(IDS)} cases, {size:,} bytes\n" and "Traceback" not in captured.err
    assert tree(generating) == tree(suite)


def test_generate_a_part(generating: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--only", "numerics/*", "--out", str(tmp_path / "part")]) == 0
    assert check_files(tmp_path / "part") == sorted(i for i in IDS if i.startswith("numerics/"))
    assert main(["generate", "--suite", "large", "--out", str(tmp_path / "large")]) == 0
    assert check_files(tmp_path / "large") == sorted(IDS[:2])
    before = tree(tmp_path)
    refused(main, ["generate", "--only", "numerics/*"], capsys, "--out")
    refused(main, ["generate", "--suite", "large"], capsys, "--out")
    refused(
        main, ["generate", "--only", "nothing", "--out", tmp_path / "none"], capsys, "no case of the suite matches 'nothing'"
    )
    refused(main, ["generate", "--suite", "huge"], capsys, "huge", "golden_vectors generate --help")
    refused(main, ["generate", "--out", tmp_path / "no" / "such"], capsys, "its folder does not exist")
    assert tree(tmp_path) == before


def test_verify(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(suite), "--jobs", "1"]) == 0
    assert capsys.readouterr().out == f"{len(IDS)} cases: every bit is as expected\n"
    assert main(["verify", str(suite), "--jobs", "1", "--only", "*/small"]) == 0
    assert capsys.readouterr().out.startswith(f"{sum(i.endswith('/small') for i in IDS)} cases")
    refused(main, ["verify", suite, "--only", "nothing"], capsys, "no case matches 'nothing'")
    refused(main, ["verify", suite, "--jobs", "0"], capsys, "--jobs", "not a whole number from 1")


def spoil(suite: Path, case_id: str = FC) -> None:
    """One bit of an expected tensor changed, behind the manifest's back."""
    path = suite / case_id / "y.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    remanifest(suite)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_verify_tells_what_differs(jobs: str, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(suite)
    spoil(suite, "numerics/shift_floor/ends")
    assert main(["verify", str(suite), "--jobs", jobs]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["numerics/shift_floor/ends", FC] and "y[2][3][2] is " in lines[1]
    assert lines[2:] == [f"2 of {len(IDS)} cases differ"]


def test_verify_in_processes_refuses_as_in_one(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGE["fortran order"][0](suite)
    remanifest(suite)
    refused(main, ["verify", suite, "--jobs", "2"], capsys, f"{FC}/x.npy", "Fortran order")


def test_a_process_that_dies_is_one_line(
    suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("golden_vectors.checking.check_case", crash)
    refused(main, ["verify", suite, "--jobs", "2"], capsys, "a process ended while it ran a case", "--jobs 1")


def test_verify_regenerates(generating: Path, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = ["verify", str(suite), "--jobs", "1", "--regenerate"]
    assert main(again) == 0
    assert capsys.readouterr().out == f"{len(IDS)} cases: every bit is as expected, every byte as generated\n"
    edit(suite / FC / "case.json", lambda d: d.update(comment="another"))
    edit(suite / "operators/conv_causal/small/case.json", lambda d: d["tensors"]["x"].pop("scale"))
    remanifest(suite)
    assert main([*again, "--only", "operators/*"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert (
        out[0].startswith(f"{FC}: case.json differs from byte ")
        and out[2] == f"2 of {sum('operators' in i for i in IDS)} cases differ"
    )
    assert main([*again, "--suite", "large", "--only", "numerics/*"]) == 1
    assert "numerics/saturate/ends: is in the suite, but is not generated" in capsys.readouterr().out


def test_list(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(suite)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    size = sum(p.stat().st_size for p in case_files(suite))
    assert [line.split()[0] for line in lines] == sorted(IDS) and last == f"{len(IDS)} cases, {size:,} bytes"
    line = next(line for line in lines if line.startswith(FC))
    assert line.split(maxsplit=1)[1].split("  ") == ["2,810", "L-2 G-2", "a_flag", "three outputs"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--level", "stream"], ["stream/small"]),
        (["--rule", "G-2"], [FC]),
        (["--flag", "a_flag"], ["numerics/shift_floor/ends", FC]),
        (["--flag", "a_flag", "--level", "operators"], [FC]),
        (["--operator", "lookup"], ["operators/lookup/small"]),
        (["--preset", "int8"], ["network/tiny/chunks", "network/tiny/offline", "stream/small"]),
        (["--only", "*/ends"], ["numerics/saturate/ends", "numerics/shift_floor/ends"]),
    ],
)
def test_list_selects(options: list[str], ids: list[str], suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", str(suite), "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in found] == ids
    for entry in found:
        assert entry["bytes"] == sum(p.stat().st_size for p in (suite / entry["id"]).iterdir()) and entry["comment"]


def test_list_refuses(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(main, ["list", suite, "--rule", "Z-1"], capsys, "no case matches --rule Z-1")
    refused(main, ["list", suite, "--level", "all"], capsys, "--level")
    refused(main, ["list", suite.parent / "no"], capsys, "manifest.json: no such file", "golden_vectors generate")
    refused(main, [], capsys, "python -m golden_vectors --help")
    refused(main, ["destroy"], capsys, "destroy")
    edit(suite / FC / "case.json", lambda d: d.update(id="operators/other"))
    refused(main, ["list", suite], capsys, FC, "holds case operators/other")


def test_list_flags(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    table = {"a_flag": {"bug": "rounds down", "effect": "too small by one", "rules": ["N-1", "N-2"]}}
    monkeypatch.setattr(command, "flags", lambda: table)
    assert main(["list", "--flags"]) == 0
    assert capsys.readouterr().out == "a_flag  (N-1 N-2)\n  bug: rounds down\n  effect: too small by one\n"
    assert main(["list", "--flags", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == table


def test_the_shipped_flags_have_their_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--flags", "--json"]) == 0
    for name, facts in json.loads(capsys.readouterr().out).items():
        assert set(facts) >= {"bug", "effect", "rules"} and facts["bug"] and facts["effect"], name


def test_as_a_program(suite: Path) -> None:
    """The module runs, and a reader of stdout that goes away is no traceback."""
    argv = [sys.executable, "-m", "golden_vectors"]
    done = subprocess.run([*argv, "list", str(suite), "--level", "stream"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("stream/small ")
    done = subprocess.run([*argv, "list", str(suite / "no")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_the_readme_names_everything() -> None:
    """Every level, role, format, law, kind of constant, table, export format, layout and operator with weights."""
    text = (Path(command.__file__).parent / "README.md").read_text(encoding="utf-8")
    entry = schema()["properties"]["tensors"]["additionalProperties"]["properties"]
    constants = schema()["properties"]["steps"]["items"]["properties"]["constants"]["items"]["properties"]
    names = {*LEVELS, *DTYPES, *FIELDS, *SHIPPED, *FORMATS, *LAYOUTS, *SUITES, *entry["role"]["enum"], *constants} - {"name"}
    names |= {name.removesuffix("_f32").removesuffix("_bf16") for name in WEIGHT_AXES}
    assert not [
        name for name in sorted(names) if f"`{name}`" not in text and f"`{name}|" not in text and f"|{name}]" not in text
    ]
    for option in re.findall(r'add_argument\("(--[a-z-]+)"', Path(command.__file__).read_text(encoding="utf-8")):
        assert option in text, option
