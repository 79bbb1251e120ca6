"""Golden vectors: layouts, the exporters, and dumps of devices read back."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from golden_vectors.__main__ import main
from golden_vectors.case import DTYPES, Case, encode, write_suite
from golden_vectors.dumps import read_dump, read_dump_folder, read_part
from golden_vectors.execute import verify
from golden_vectors.export import FORMATS, export
from golden_vectors.export.c_header import identifier, string, unique, whole
from golden_vectors.export.npz import archive
from golden_vectors.export.prepare import Options, cut_frames, prepare
from golden_vectors.layouts import (
    LAYOUTS,
    WEIGHT_AXES,
    axes_of,
    feature_maps,
    map_features,
    map_weight,
    mapped_shape,
    unmap_features,
    unmap_weight,
    weight_order,
    weights_of,
)
from golden_vectors.registry import parameter_names
from golden_vectors.structure import is_framed
from refimpl.errors import InputError
from refimpl.program import OPERATORS
from tests.golden_small import PATTERNS, case_named, small_cases
from tests.tiny import refused, tree

Array = np.ndarray[Any, np.dtype[Any]]
FC = "operators/fully_connected_channels/small"
CONV = "operators/conv_causal/small"
NATIVE = Options()


def run_export(tmp_path: Path, form: str, cases: Sequence[Case] | None = None, **options: Any) -> Path:
    out = tmp_path / f"out_{form}_{len(list(tmp_path.iterdir()))}"
    export(small_cases() if cases is None else cases, form, out, Options(**options))
    return out


# -- layouts ------------------------------------------------------------------------------------------------------------

shapes = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 19))
dtypes = st.sampled_from(sorted(DTYPES.values()))
layouts = st.tuples(st.sampled_from(LAYOUTS), st.integers(1, 17)).filter(lambda v: v != ("hcwb", 1))


@given(st.data())
@settings(deadline=None)
def test_layouts_are_lossless(data: st.DataObject) -> None:
    shape, (layout, padding) = data.draw(shapes), data.draw(layouts)
    x = data.draw(hnp.arrays(data.draw(dtypes), shape))
    stored = map_features(x, layout, padding, 3)
    assert stored.shape == mapped_shape(shape, layout, padding) and stored.flags.c_contiguous and stored.dtype == x.dtype
    back = unmap_features(stored, layout, shape, padding)
    assert back.tobytes() == x.tobytes() and back.shape == shape and back.flags.c_contiguous


@given(shapes.filter(lambda s: 0 not in s), layouts)
def test_layouts_put_every_element_where_they_say(shape: tuple[int, int, int], layout_and_padding: tuple[str, int]) -> None:
    """Every address by the formula of the layout; whatever is left holds the fill."""
    layout, n = layout_and_padding
    frames, bins, channels = shape
    x = np.arange(frames * bins * channels, dtype=np.int64).reshape(shape)
    flat = map_features(x, layout, n, -7).reshape(-1)
    padded = -(-channels // n) * n
    address: dict[str, Callable[[int, int, int], int]] = {
        "hwc": lambda t, f, c: (t * bins + f) * padded + c,
        "chw": lambda t, f, c: (t * padded + c) * bins + f,
        "ctf": lambda t, f, c: (c * frames + t) * bins + f,
        "hcwb": lambda t, f, c: ((t * (padded // n) + c // n) * bins + f) * n + c % n,
    }
    used = {address[layout](*at): value for at, value in np.ndenumerate(x)}
    assert all(flat[where] == value for where, value in used.items())
    assert len(axes_of(layout, n)) == len(mapped_shape(shape, layout, n))
    rest = np.delete(flat, list(used))
    assert rest.size == frames * bins * (padded - channels) and (rest == -7).all()


@pytest.mark.parametrize("axes", sorted(set(WEIGHT_AXES.values())))
def test_weights_are_lossless_in_every_order(axes: str) -> None:
    sizes = {"h": 2, "w": 3, "i": 4, "o": 5}
    x = np.arange(np.prod([sizes[a] for a in axes])).reshape([sizes[a] for a in axes])
    for order in map("".join, permutations("hwio")):
        stored, there = map_weight(x, axes, order), weight_order(axes, order)
        assert stored.shape == tuple(sizes[a] for a in there) and stored.flags.c_contiguous
        assert there == "".join(a for a in order if a in axes)
        at = {a: sizes[a] - 1 for a in axes} | {axes[0]: 1}
        assert stored[tuple(at[a] for a in there)] == x[tuple(at[a] for a in axes)]
        assert np.array_equal(unmap_weight(stored, axes, order), x)


def test_every_operator_with_weights_has_axes() -> None:
    assert set(WEIGHT_AXES) == {name for name in OPERATORS if "weight" in parameter_names(name)}
    assert weights_of(case_named("conv_causal/small")) == {"y.weight": "hwio"}
    assert weights_of(case_named("fully_connected_channels/small")) == {"y.weight": "io"}


def test_feature_maps_are_those_of_frames_and_bins() -> None:
    assert feature_maps(case_named("conv_causal/small")) == {"x", "x.past", "y"}
    assert feature_maps(case_named("stream/small")) == set()  # [T, speaker, sample]
    assert feature_maps(case_named("shift_floor/ends")) == feature_maps(case_named("network/tiny/chunks")) == set()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: map_features(x, "nchw"), "layout 'nchw' is unknown"),
        (lambda x: map_features(x, "hwc", 0), "multiple of 0"),
        (lambda x: map_features(x, "hwc", 1 << 40), "multiple of"),
        (lambda x: map_features(x, "hcwb"), "needs the channels of a brick"),
        (lambda x: unmap_features(x, "chw", (2, 3, 4)), r"\[2, 3, 4\] is not \[2, 3, 4\] in layout chw, which is \[2, 4, 3\]"),
    ],
)
def test_layouts_refuse(call: Callable[[Array], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(np.zeros((2, 3, 4), np.int8))


# -- what is exported ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case in small_cases() if is_framed(case)], ids=lambda case: case.id)
def test_cut_frames_are_a_case_of_their_own(case: Case) -> None:
    """Every range of frames runs from the state at its start to the state at its end."""
    total = len(case.tensors[case.names("input")[0]].values)
    for first in range(total):
        for stop in range(first + 1, total + 1):
            cut = cut_frames(case, first, stop)
            assert verify(cut) is None and len(cut.tensors["y"].values) == stop - first
    assert encode(cut_frames(case, 0, None)) == encode(case)


def test_cut_frames_carry_another_state() -> None:
    case = case_named("stream/small")
    cut = cut_frames(case, 1, 2)
    assert np.array_equal(cut.tensors["tail.past"].values, case.tensors["tail"].values[:1])
    assert np.array_equal(cut.tensors["tail.next"].values, case.tensors["tail"].values[1:2])


@pytest.mark.parametrize(
    ("end", "frames", "words"),
    [
        ("conv_causal/small", (2, 2), "has the frames 0:4, not 2:2"),
        ("conv_causal/small", (0, 5), "has the frames 0:4, not 0:5"),
        ("conv_causal/small", (4, None), "has the frames 0:4, not 4:"),
        ("shift_floor/ends", (0, 1), "has no frames to cut"),
        ("network/tiny/offline", (0, 1), "has no frames to cut"),
    ],
)
def test_frames_that_are_not_there(end: str, frames: tuple[int, int | None], words: str) -> None:
    with pytest.raises(InputError, match=words):
        cut_frames(case_named(end), *frames)


def test_padding_is_the_zero_point_of_codes() -> None:
    items = {item.name: item for item in prepare(case_named("conv_causal/small"), Options(pad_channels=4)).items}
    assert items["x"].values.shape == (4, 5, 4) and (items["x"].values[:, :, 3] == 3).all()
    assert (items["x.past"].values[:, :, 3] == 3).all()
    assert items["y"].values.shape == (4, 5, 4) and (items["y"].values[:, :, 2:] == 0).all()
    assert items["y.weight"].values.shape == (3, 3, 3, 2)


# -- raw, text, NumPy ---------------------------------------------------------------------------------------------------


def stored_items(case: Case, options: Options) -> dict[str, Array]:
    return {item.name: item.values for item in prepare(case, options).items}


OPTIONS = [
    {},
    {"layout": "chw"},
    {"layout": "ctf", "pad_channels": 4, "weights": "ohwi"},
    {"layout": "hcwb", "pad_channels": 2, "weights": "oihw"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("blob", [False, True])
def test_bin(blob: bool, options: dict[str, Any], tmp_path: Path) -> None:
    out = run_export(tmp_path, "bin", blob=blob, **options)
    index = json.loads((out / "index.json").read_text())["cases"]
    files = {"index.json", "README.txt"}
    assert [entry["id"] for entry in index] == [case.id for case in small_cases()]
    for case, entry in zip(small_cases(), index, strict=True):
        expected = stored_items(case, Options(**options))
        assert [t["tensor"] for t in entry["tensors"]] == list(case.tensors) and entry["comment"] == case.comment
        for t in entry["tensors"]:
            tensor, data = case.tensors[t["tensor"]], (out / t["file"]).read_bytes()
            assert t["offset"] % 16 == 0 and (blob or (t["offset"] == 0 and len(data) == t["bytes"]))
            data = data[t["offset"] : t["offset"] + t["bytes"]]
            assert hashlib.sha256(data).hexdigest() == t["sha256"]
            values = np.frombuffer(data, t["dtype"]).reshape(t["stored_shape"])
            assert values.tobytes() == expected[t["tensor"]].tobytes() and values.shape == expected[t["tensor"]].shape
            ends = {axis: size - 1 for axis, size in enumerate(values.shape)}
            if values.size:  # the address of the last element
                assert sum(ends[axis] * stride for axis, stride in enumerate(t["strides"])) == values.nbytes - values.itemsize
            assert (t["role"], t["format"], t["shape"], t["zero_point"]) == (
                tensor.role, tensor.format, list(tensor.values.shape), tensor.zero_point,
            )  # fmt: skip
            assert (None if t["scale"] is None else float.fromhex(t["scale"])) == tensor.scale
            files.add(t["file"])
        files |= {f"{case.id}/{name}" for name in case.files}
        assert all((out / case.id / name).read_bytes() == data for name, data in case.files.items())
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == files


def test_an_index_holds_every_constant(tmp_path: Path) -> None:
    """The index and the tensors are the case: its document can be put together again."""
    out = run_export(tmp_path, "bin")
    for entry in json.loads((out / "index.json").read_text())["cases"]:
        case = next(case for case in small_cases() if case.id == entry["id"])
        document = json.loads(encode(case)["case.json"])
        assert {**entry, "tensors": None} == {**document, "tensors": None}


def readmemh(text: str) -> dict[int, str]:
    """Words by address, as IEEE 1364 says $readmemh reads them; written apart from the reader of dumps."""
    text = re.sub(r"//.*", "", text)
    at, found = 0, {}
    for token in text.split():
        if token[0] == "@":
            at = int(token[1:], 16)
        else:
            found[at] = token
            at += 1
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("words", [1, 5])
def test_hex(words: int, options: dict[str, Any], tmp_path: Path) -> None:
    out = run_export(tmp_path, "hex", words_per_line=words, **options)
    for entry in json.loads((out / "index.json").read_text())["cases"]:
        case = next(case for case in small_cases() if case.id == entry["id"])
        expected = stored_items(case, Options(**options))
        for t in entry["tensors"]:
            text = (out / t["file"]).read_text(encoding="ascii")
            assert text.startswith(f"// {case.id} {t['tensor']} ({t['role']})\n// {t['format']} ")
            found, wanted = readmemh(text), expected[t["tensor"]]
            assert list(found) == list(range(wanted.size)) and t["words"] == wanted.size
            assert all(len(word) * 4 == t["bits"] == 8 * wanted.itemsize for word in found.values())
            assert b"".join(int(word, 16).to_bytes(wanted.itemsize, "little") for word in found.values()) == wanted.tobytes()
            assert max(len(line.split()) for line in text.splitlines() if not line.startswith("/")) == min(
                words, max(1, wanted.size)
            ) or (is_framed(case))
            addresses = re.findall(r"^@(\S+)$", text, re.MULTILINE)
            framed = is_framed(case) and t["role"] != "constant" and (not t["axes"] or t["axes"][0] == "T")
            assert len(addresses) == (len(wanted) if framed else 1) and addresses[0] == "00000000"


def test_npz(tmp_path: Path) -> None:
    out, again = run_export(tmp_path, "npz", pad_channels=4), run_export(tmp_path, "npz", pad_channels=4)
    assert tree(out) == tree(again)
    for case in small_cases():
        expected = stored_items(case, Options(pad_channels=4))
        with np.load(out / f"{case.id}.npz", allow_pickle=False) as loaded:
            assert {n for n in loaded.files if n not in ("case.json", *case.files)} == set(case.tensors)
            for name, values in expected.items():
                assert loaded[name].tobytes() == values.tobytes() and loaded[name].dtype == values.dtype
            document = json.loads(loaded["case.json"])
            assert document["id"] == case.id and [t["tensor"] for t in document["tensors"]] == list(case.tensors)
            assert all(loaded[name] == data for name, data in case.files.items())


def test_the_bytes_of_a_zip_are_pinned() -> None:
    """No time, no compressor and no platform in it: a digest made once holds everywhere."""
    data = archive({"a.npy": b"123", "case.json": b"{}"})
    assert hashlib.sha256(data).hexdigest() == "2918151d7cb13250f4c5f8fd85733cffcd25936f89feabb6aab21b791247a0c0"
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        assert [(i.filename, i.date_time, i.compress_type) for i in source.infolist()] == [
            ("a.npy", (1980, 1, 1, 0, 0, 0), 0),
            ("case.json", (1980, 1, 1, 0, 0, 0), 0),
        ]


# -- ONNX ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS[:3], ids=str)
def test_onnx(options: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    out = run_export(tmp_path, "onnx", **options)
    for case in small_cases():
        expected = stored_items(case, Options(**options))
        entries = json.loads((out / case.id / "names.json").read_text())["tensors"]
        assert {entry["tensor"] for entry in entries} == set(case.tensors)
        for entry in entries:
            proto = onnx.TensorProto()
            data = (out / case.id / entry["file"]).read_bytes()
            proto.ParseFromString(data)
            onnx.checker.check_tensor(proto)
            wanted = expected[entry["tensor"]]
            assert (
                proto.SerializeToString() == data and proto.name == entry["tensor"] and list(proto.dims) == list(wanted.shape)
            )
            values = numpy_helper.to_array(proto)
            assert values.tobytes() == wanted.tobytes() and values.shape == wanted.shape
            if entry["format"] != "bf16":
                assert values.dtype == wanted.dtype
                assert numpy_helper.from_array(wanted, proto.name).SerializeToString() == data
            else:
                assert proto.data_type == onnx.TensorProto.BFLOAT16


def test_onnx_files_count_up_by_kind(tmp_path: Path) -> None:
    out = run_export(tmp_path, "onnx", [case_named("stream/small"), case_named("conv_causal/small")])
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    data, conv = "stream/small/test_data_set_0", CONV
    assert files == {
        "README.txt",
        "stream/small/names.json",
        *(f"{data}/{name}.pb" for name in ("input_0", "input_1", "input_2", "output_0", "output_1")),
        f"{conv}/names.json",
        *(f"{conv}/test_data_set_0/{name}.pb" for name in ("input_0", "input_1", "output_0")),
        *(f"{conv}/constants/constant_{k}.pb" for k in range(3)),
    }
    entries = json.loads((out / "stream/small/names.json").read_text())["tensors"]
    roles = {Path(entry["file"]).stem: (entry["tensor"], entry["role"]) for entry in entries}
    assert roles["input_2"] == ("tail.past", "state") and roles["output_1"] == ("tail.next", "next_state")


def test_the_bytes_of_a_tensor_proto_are_pinned(tmp_path: Path) -> None:
    """By hand from the wire format, for those who test without ONNX: dims 1 300 (varint ac 02), INT16, name, data."""
    case = case_named("network/tiny/chunks")
    out = run_export(tmp_path, "onnx", [case], tensors=("pcm_in",))
    data = (out / case.id / "test_data_set_0/input_0.pb").read_bytes()
    assert data == b"\x08\xac\x02\x10\x05\x42\x06pcm_in\x4a\xd8\x04" + case.tensors["pcm_in"].values.tobytes()


# -- C ------------------------------------------------------------------------------------------------------------------

HARNESS = r"""
#include "cases.h"
#include "cases.h" /* guards */
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  static unsigned char data[1 << 20];
  char path[4096];
  uint32_t i, k, total = 0;
  (void)argc;
  for (i = 0; i < GV_CASES; i++) {
    for (k = 0; k < gv_cases[i].count; k++) {
      const gv_tensor *t = &gv_cases[i].tensors[k];
      size_t size;
      uint32_t d;
      FILE *f;
      snprintf(path, sizeof path, "%s/%s/%s.bin", argv[1], gv_cases[i].id, t->name);
      f = fopen(path, "rb");
      if (!f) return 1;
      size = fread(data, 1, sizeof data, f);
      fclose(f);
      if (size != t->bytes || memcmp(data, t->data, size) != 0) return 2;
      total += t->bytes;
      printf("%s %s %s %s %d %llu", gv_cases[i].id, t->name, t->role, t->format, (int)t->zero_point,
             (unsigned long long)t->scale_bits);
      for (d = 0; d < t->rank; d++) printf(" %u", (unsigned)t->dims[d]);
      printf("\n");
    }
  }
  printf("%u %u\n", (unsigned)total, (unsigned)GV_TOTAL_BYTES);
  MACROS
  return 0;
}
"""
P = "gv_operators_fully_connected_channels_small"
# Macros of the small cases and what they are; every kind of constant is among them.
MACROS: dict[str, int | str] = {
    f"{P}_y_rq_LAW": 0,
    f"{P}_y_rq_LOWEST": 0,
    f"{P}_y_rq_HIGHEST": 255,
    f"{P}_y_rq_OFFSET": -128,
    f"{P}_y_rq_PRE_SHIFT": 0,
    f"{P}_x_SIZE": 60,
    f"{P}_x_DIM0": 3,
    f"{P}_x_DIM1": 4,
    f"{P}_x_DIM2": 5,
    f"{P}_x_ZERO_POINT": 3,
    f"{P}_y_ZERO_POINT": -9,
    f"{P}_x_SCALE_BITS": struct.unpack("<q", struct.pack("<d", 0.5))[0],
    f"{P}_y_rq_addend[1]": -(2**40),
    f"{P}_y_rq_bias[2]": -(2**31),
    "gv_numerics_saturate_ends_y_lowest": -(2**63),
    "gv_numerics_saturate_ends_y_highest": 2**31,
    "gv_numerics_shift_floor_ends_value[0]": -(2**63),
    "gv_numerics_shift_floor_ends_value[1]": 2**63 - 1,
    "gv_numerics_shift_floor_empty_y_SIZE": 0,
    "gv_operators_quantize_f32_small_y_inverse_scale_BITS": 0x44000000,
    "gv_operators_quantize_f32_small_x[0]": 0x7FC00001,
    "gv_operators_conv_causal_small_y_rq_LAW": 2,
    "gv_numerics_code_table_small_y_out_scale_BITS": 0x3F70000000000000,
    "gv_numerics_code_table_small_y_function": "sigmoid",
}


def compiled(out: Path, source: str, *more: str) -> Path:
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    (out.parent / "main.c").write_text(source)
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I", str(out), "-o", str(out.parent / "main")]
    done = subprocess.run([gcc, *flags, *more, str(out.parent / "main.c")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out.parent / "main"


@pytest.mark.parametrize("options", [{}, {"layout": "hcwb", "pad_channels": 4, "weights": "ohwi"}], ids=str)
def test_c(options: dict[str, Any], tmp_path: Path) -> None:
    """The headers compile without a warning, and hold the bytes of the raw export and the constants of the cases."""
    out, raw = run_export(tmp_path, "c", **options), run_export(tmp_path, "bin", **options)
    prints = "".join(
        f'printf("%s\\n", {name});' if isinstance(value, str) else f'printf("%lld\\n", (long long)({name}));'
        for name, value in MACROS.items()
        if not (options and ("_x_SIZE" in name or "_x_DIM" in name))
    )
    program = compiled(out, HARNESS.replace("MACROS", prints))
    done = subprocess.run([str(program), str(raw)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.returncode
    lines = done.stdout.splitlines()
    wanted, total = [], 0
    for case in small_cases():
        for name, values in stored_items(case, Options(**options)).items():
            t = case.tensors[name]
            scale = 0 if t.scale is None else struct.unpack("<Q", struct.pack("<d", t.scale))[0]
            wanted.append(
                f"{case.id} {name} {t.role} {t.format} {t.zero_point or 0} {scale} {' '.join(map(str, values.shape))}"
            )
            total += values.nbytes
    assert lines[: len(wanted)] == wanted and lines[len(wanted)] == f"{total} {total}"
    if not options:
        assert lines[len(wanted) + 1 :] == [str(value) for value in MACROS.values()]


def test_every_c_header_stands_alone(tmp_path: Path) -> None:
    out = run_export(tmp_path, "c")
    headers = sorted(p.name for p in out.glob("*.h"))
    assert len(headers) == len(small_cases()) + 2 and "gv_common.h" in headers
    for name in headers:
        compiled(out, f'#include "{name}"\n#include "{name}"\nint main(void) {{ return 0; }}\n', "-fsyntax-only")


def test_c_arrays_can_be_placed(tmp_path: Path) -> None:
    out = run_export(tmp_path, "c", [case_named("conv_causal/small")])
    define = """#define GV_STORAGE static const __attribute__((section(".vectors"), used))\n"""
    program = compiled(out, define + '#include "cases.h"\nint main(void) { return 0; }\n')
    assert b".vectors\0" in program.read_bytes()


def test_c_readme_tells_the_bytes(tmp_path: Path) -> None:
    out = run_export(tmp_path, "c")
    sizes = {case.id: sum(t.values.nbytes for t in case.tensors.values()) for case in small_cases()}
    text = (out / "README.txt").read_text()
    assert f"Tensors in all: {sum(sizes.values())} bytes" in text
    for case_id, size in sizes.items():
        assert re.search(rf"^ +{size}  {case_id}$", text, re.MULTILINE)
        assert f"tensors: {size} bytes" in (out / f"{identifier(case_id)}.h").read_text()


def test_c_names() -> None:
    assert identifier("operators/a-b.c_d/e") == "operators_a_b_c_d_e"
    taken: set[str] = set()
    names = [unique(f"gv_{identifier(i)}", i, taken) for i in ("a/b-c", "a/b_c", "a/b.c", "a/B_c")]
    assert names[0] == "gv_a_b_c" and len({name.lower() for name in names}) == 4
    assert all(re.fullmatch("gv_a_[bB]_c(_[0-9a-f]{8})?", name) for name in names)
    with pytest.raises(ValueError, match="two things are called a/b"):
        [unique("gv_x", "a/b", {"gv_x", f"gv_x_{hashlib.sha256(b'a/b').hexdigest()[:8]}"})]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-1, "(-1)"),
        (2**31 - 1, "2147483647"),
        (2**31, "2147483648LL"),
        (-(2**31), "(-2147483647 - 1)"),
        (-(2**31) - 1, "(-2147483649LL)"),
        (2**63 - 1, "9223372036854775807LL"),
        (-(2**63), "(-9223372036854775807LL - 1)"),
        (2**64 - 1, "18446744073709551615ull"),
    ],
)
def test_c_integers(value: int, text: str) -> None:
    assert whole(value) == text


def test_c_strings_have_no_trigraphs_and_are_ascii() -> None:
    assert string('a"\\?\n\u00e9') == r'"a\"\\\?\012\303\251"'


# -- the command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    write_suite(tmp_path / "suite", small_cases())
    return tmp_path / "suite"


@pytest.mark.parametrize("form", FORMATS)
def test_export_writes_into_its_folder_only(form: str, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, out = tree(tmp_path), tmp_path / "out"
    assert main(["export", str(suite), "--format", form, "--out", str(out)]) == 0
    files = [p for p in out.rglob("*") if p.is_file()]
    size = sum(p.stat().st_size for p in files)
    assert capsys.readouterr().out == f"{out}: {len(small_cases())} cases, {len(files)} files, {size:,} bytes\n"
    assert {name: data for name, data in tree(tmp_path).items() if name != "out" and not name.startswith("out/")} == before
    assert tree(out) == tree(run_export(tmp_path, form, sorted(small_cases(), key=lambda case: case.id)))


def test_export_options(suite: Path, tmp_path: Path) -> None:
    argv = ["export", str(suite), "--only", "operators/conv*", "--format", "bin", "--out", str(tmp_path / "out")]
    options = [
        "--layout",
        "hcwb",
        "--pad-channels",
        "16",
        "--weights",
        "ohwi",
        "--frames",
        "1:3",
        "--blob",
        "--limit-bytes",
        "2000",
    ]
    options += ["--tensors", "x*", "y"]
    assert main([*argv, *options]) == 0
    wanted = run_export(
        tmp_path, "bin", [case_named("conv_causal/small")], layout="hcwb", pad_channels=16, weights="ohwi", frames=(1, 3),
        tensors=("x*", "y"), blob=True,
    )  # fmt: skip
    assert tree(tmp_path / "out") == tree(wanted)
    (entry,) = json.loads((tmp_path / "out/index.json").read_text())["cases"]
    assert [t["tensor"] for t in entry["tensors"]] == ["x", "x.past", "y"]
    assert entry["tensors"][0]["stored_shape"] == [2, 1, 5, 16] and entry["tensors"][0]["axes"] == ["T", "C/16", "F", "C%16"]


REFUSALS: dict[str, tuple[list[str], str]] = {
    "frames of a function": (["--frames", "0:1"], "has no frames to cut"),
    "frames": (["--frames", "1"], "'1' is not A:B"),
    "no frames": (["--level", "operators", "--frames", "3:3"], "has the frames"),
    "layout": (["--layout", "nchw"], "--layout"),
    "bricks of one": (["--layout", "hcwb"], "needs the channels of a brick"),
    "weights": (["--weights", "oi"], "is not an order of o, i, h and w"),
    "limit": (["--limit-bytes", "1000"], "more than --limit-bytes 1000"),
    "no tensor": (["--tensors", "nothing"], "no tensor of the chosen cases matches"),
    "no case": (["--flag", "nothing"], "no case matches --flag nothing"),
    "blob of text": (["--blob", "--format", "hex"], "--blob is for --format bin"),
    "words of raw": (["--words-per-line", "4"], "--words-per-line is for --format hex"),
    "format": (["--format", "tar"], "--format"),
    "folder": (["--out", "OCCUPIED"], "exists and is not empty"),
    "file": (["--out", "OCCUPIED/file"], "is a file"),
    "link": (["--out", "LINK"], "is a link"),
    "parent": (["--out", "OCCUPIED/no/such"], "its folder does not exist"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_export_refuses_and_leaves_nothing(
    what: str, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, words = REFUSALS[what]
    (tmp_path / "OCCUPIED").mkdir()
    (tmp_path / "OCCUPIED" / "file").write_text("mine")
    (tmp_path / "LINK").symlink_to("elsewhere")
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    refused(main, ["export", suite, "--format", "bin", "--out", "new", *options], capsys, words)
    assert tree(tmp_path) == before


def test_an_export_that_is_interrupted_leaves_nothing(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(cases: Any, options: Options) -> Any:
        yield "a/b.bin", b"1"
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, "bin", stopping)
    before = tree(tmp_path)
    assert main(["export", str(suite), "--format", "bin", "--out", str(tmp_path / "out")]) == 130
    assert tree(tmp_path) == before


def test_an_empty_folder_may_be_named(suite: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert main(["export", str(suite), "--format", "npz", "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / f"{FC}.npz").is_file()


# -- dumps --------------------------------------------------------------------------------------------------------------


def write_dump(path: Path, stored: Array, big_endian: bool = False) -> Path:
    """A dump as a device may write it; no code of the exporters."""
    if path.suffix == ".npy":
        np.save(path, stored.astype(stored.dtype.newbyteorder(">")) if big_endian else stored)
    elif path.suffix == ".npz":
        np.savez_compressed(path, x=stored, other=np.zeros(3))
    elif path.suffix == ".bin":
        path.write_bytes(stored.astype(stored.dtype.newbyteorder(">" if big_endian else "<")).tobytes())
    else:
        words = stored.reshape(-1).view(f"<u{stored.itemsize}").tolist()
        path.write_text("/* a dump\n of x */ @0\n" + "\n".join(f"{word:_X} // {word}" for word in words) + "\n")
    return path


@settings(deadline=None, max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".bin", ".hex", ".txt"])
def test_dumps_come_back_bit_for_bit(suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every format, layout and byte order; bits of NaNs too, since the arrays are made of bytes."""
    form = data.draw(st.sampled_from(sorted(DTYPES)))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9)))
    layout, padding = data.draw(layouts)
    big_endian = suffix in (".npy", ".bin") and data.draw(st.booleans())
    dtype = np.dtype(DTYPES[form])
    x = np.frombuffer(data.draw(st.binary(min_size=(n := int(np.prod(shape)) * dtype.itemsize), max_size=n)), dtype).reshape(
        shape
    )
    path = write_dump(tmp_path_factory.mktemp("d") / f"x{suffix}", map_features(x, layout, padding), big_endian)
    more: dict[str, Any] = {"member": "x"} if suffix == ".npz" else {}
    more |= {"big_endian": True} if big_endian and suffix == ".bin" else {}
    back = read_dump(path, form, shape, layout=layout, pad_channels=padding, **more)
    assert back.tobytes() == x.tobytes() and back.dtype == dtype and back.shape == shape and back.flags.c_contiguous


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".bin", ".hex"])
def test_payloads_of_nan_are_kept(suffix: str, tmp_path: Path) -> None:
    path = write_dump(tmp_path / f"x{suffix}", PATTERNS.view(np.float32))
    member = "x" if suffix == ".npz" else None
    assert np.array_equal(read_dump(path, "f32", (6,), member=member).view(np.uint32), PATTERNS)


def test_patterns_under_other_names(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    patterns = np.array([0x3F80, 0x7FC0, 0xFF81], np.uint16)
    np.save(tmp_path / "b.npy", patterns.view(ml_dtypes.bfloat16))
    np.save(tmp_path / "f.npy", PATTERNS)
    assert np.array_equal(read_dump(tmp_path / "b.npy", "bf16", (3,)), patterns)
    assert np.array_equal(read_dump(tmp_path / "f.npy", "f32", (6,)).view(np.uint32), PATTERNS)


@pytest.mark.parametrize("form", ["bin", "hex"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_was_exported_can_be_read(form: str, options: dict[str, Any], tmp_path: Path) -> None:
    out = run_export(tmp_path, form, **options)
    how = {key: options[key] for key in ("layout", "pad_channels") if key in options}
    for case in small_cases():
        for name, tensor in case.tensors.items():
            if name in weights_of(case):
                continue
            layout = how if name in feature_maps(case) else {}
            back = read_dump(out / case.id / f"{name}.{form}", tensor.format, tensor.values.shape, **layout)
            assert back.tobytes() == tensor.values.tobytes()


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".bin", ".hex"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_part_gives_what_there_is(suffix: str, layout: str, tmp_path: Path) -> None:
    x = np.arange(5 * 3 * 4, dtype=np.int16).reshape(5, 3, 4)
    how: dict[str, Any] = {"layout": layout, "pad_channels": 8, "member": "x" if suffix == ".npz" else None}
    path = write_dump(tmp_path / f"x{suffix}", map_features(x[1:3], layout, 8))
    dump = read_part(path, "int16", (5, 3, 4), first=1, **how)
    assert (dump.first, dump.stop) == (1, 3) and np.array_equal(dump.values, x[1:3])
    assert read_part(path, "int16", (2, 3, 4), **how).stop == 2
    with pytest.raises(InputError, match="frames 4 to 5 of 5"):
        read_part(path, "int16", (5, 3, 4), first=4, **how)
    with pytest.raises(InputError, match=r"of 2 of 5 frames: read it as a part"):
        read_dump(path, "int16", (5, 3, 4), **how)
    with pytest.raises(InputError, match=r"96 bytes, but|or fewer frames"):
        read_part(path, "int16", (5, 7, 4), **how)


def test_addresses_say_where_a_part_starts(tmp_path: Path) -> None:
    path = tmp_path / "x.hex"
    path.write_text("@6 0006 0007 @8\n0008 0009 000a 000b")
    dump = read_part(path, "int16", (4, 3, 2))
    assert (dump.first, dump.stop) == (1, 2) and dump.values.reshape(-1).tolist() == [6, 7, 8, 9, 10, 11]
    with pytest.raises(InputError, match="starts at word 6, which is not where a frame starts"):
        read_part(path, "int16", (3, 3, 4))
    with pytest.raises(InputError, match="it has the size of 1 of 4 frames: read it as a part"):
        read_dump(path, "int16", (4, 3, 2))


Damage = Callable[[Path], object]


def text(content: str) -> Damage:
    return lambda path: path.write_text(content)


def raw(content: bytes) -> Damage:
    return lambda path: path.write_bytes(content)


def array(values: Array) -> Damage:
    return lambda path: np.save(path, values)


def truncated(path: Path) -> None:
    np.save(path, X)
    path.write_bytes(path.read_bytes()[:-2])


def bomb(path: Path) -> None:
    """Kilobytes that say and are a hundred megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("x.npy", bytes(100 << 20))


def liar(path: Path) -> None:
    """A member whose directory entry says less than is in it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("x.npy", bytes(10 << 20))
    data = path.read_bytes()
    path.write_bytes(data.replace((10 << 20).to_bytes(4, "little"), (500).to_bytes(4, "little")))


def bent(path: Path) -> None:
    np.savez_compressed(path, x=np.random.default_rng(0).integers(0, 99, 24).astype(np.int16))
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)


X = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
# A dump of X, int16 [2, 3, 4], that cannot be it: the file, how it is made, words of the error.
BAD_DUMPS: dict[str, tuple[str, Damage, str]] = {
    "missing": ("x.bin", lambda p: None, "no such file"),
    "a folder": ("x.bin", Path.mkdir, "no such file"),
    "suffix": ("x.raw", raw(bytes(48)), "a dump is .npy, .bin, .hex, .txt or .npz"),
    "short": ("x.bin", raw(bytes(47)), "47 bytes, but int16 [2, 3, 4] has 48; check which tensor"),
    "one frame": ("x.bin", raw(bytes(24)), "size of 1 of 2 frames: read it as a part or it has the size of elements of 8 bits"),
    "wide": ("x.bin", raw(bytes(96)), "it has the size of elements of 32 bits: dump int16 as it is"),
    "padded": ("x.bin", raw(bytes(2 * 3 * 8 * 2)), "layout hwc with channels padded to a multiple of 8"),
    "dtype": ("x.npy", array(X.astype(np.int8)), "holds int8, int16 is stored as int16"),
    "unsigned": ("x.npy", array(X.astype(np.uint16)), "subtract 32768 from unsigned ones"),
    "real values": ("x.npy", array(X.astype(np.float32)), "dump the codes, not their real values"),
    "another float": ("x.npy", array(X.astype(np.float64)), "dump the codes, not their real values"),
    "transposed": ("x.npy", array(X.transpose(0, 2, 1).copy()), "expected [2, 3, 4]; it has the shape of layout chw"),
    "transposed and padded": ("x.npy", array(map_features(X, "chw", 8)), "layout chw with channels padded to a multiple of 8"),
    "another shape": ("x.npy", array(X.reshape(4, 6)), "holds [4, 6], expected [2, 3, 4]; check which tensor"),
    "fewer": ("x.npy", array(X[:1]), "it has the shape of 1 of 2 frames: read it as a part"),
    "fortran": ("x.npy", array(np.asfortranarray(X)), "Fortran order; save it with numpy.ascontiguousarray"),
    "pickled": ("x.npy", array(np.array([{}], object)), "holds object"),
    "truncated npy": ("x.npy", truncated, "46 bytes of data do not make"),
    "no npy": ("x.npy", raw(b"RIFF" * 30), "not a whole .npy file"),
    "large npy": ("x.npy", raw(bytes(1 << 20)), "has at most"),
    "no zip": ("x.npz", raw(b"PK" * 100), "not a whole .npz file"),
    "bomb": ("x.npz", bomb, "104857600 bytes, but int16 [2, 3, 4] has at most"),
    "lying zip": ("x.npz", liar, "x.npz: "),
    "bent zip": ("x.npz", bent, "not a whole .npz file"),
    "no member": ("x.npz", lambda p: np.savez(p, y=X), "has no array 'x', but 'y'"),
    "undriven": ("x.hex", text("0000 00xx " * 12), "word 00xx is not driven (x or z)"),
    "undriven z": ("x.hex", text("zzzz " * 24), "is not driven"),
    "no number": ("x.hex", text("hello"), "'hello' is no hexadecimal word"),
    "no address": ("x.hex", text("@zz 00"), "not driven"),
    "too wide": ("x.hex", text("1ffff " * 24), "'1ffff' does not fit int16; dump words of 16 bits"),
    "hole": ("x.hex", text("0 1 @4 3"), "@4 leaves the words from 2 on"),
    "backwards": ("x.hex", text("0 1 @0 3"), "without holes"),
    "few words": ("x.hex", text("0 1 2"), "6 bytes, but int16 [2, 3, 4] has 48"),
    "many words": ("x.hex", text("0 " * 25), "more than the 24 words"),
    "huge text": ("x.hex", raw(b" " * (2 << 20)), "has at most"),
    "binary text": ("x.hex", raw(bytes(range(256))), "give a raw dump the suffix .bin"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_DUMPS)
def test_dumps_that_cannot_be_it(what: str, tmp_path: Path) -> None:
    name, make, words = BAD_DUMPS[what]
    make(tmp_path / name)
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        read_dump(tmp_path / name, "int16", (2, 3, 4), member="x" if name.endswith(".npz") else None)
    message = str(caught.value)
    assert words in message and str(tmp_path / name) in message and "\n" not in message and len(message) < 600
    assert tree(tmp_path) == before


def test_questions_that_make_no_sense(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "f.npy", X.astype(np.float32))
    (tmp_path / "b.bin").write_bytes(bytes(24))
    calls: dict[str, Callable[[Path], object]] = {
        "format 'int4' is unknown": lambda p: read_dump(p, "int4", (2, 3, 4)),
        "layout 'nchw' is unknown": lambda p: read_dump(p, "int16", (2, 3, 4), layout="nchw"),
        "is for feature maps": lambda p: read_dump(p, "int16", (6, 4), layout="chw"),
        "an .npz needs the name of a member": lambda p: read_dump(p, "int16", (2, 3, 4), member="x"),
        "dump the 16-bit patterns": lambda p: read_dump(p.with_name("f.npy"), "bf16", (2, 3, 4)),
        r"24 bytes, but int16 \[13\] has 26; check which": lambda p: read_dump(p.with_name("b.bin"), "int16", (13,)),
        "a single number has no frames": lambda p: read_part(p, "int16", ()),
        "frames -1 to 0 of 2": lambda p: read_part(p, "int16", (2, 3, 4), first=-1),
    }
    for words, call in calls.items():
        with pytest.raises(InputError, match=words):
            call(tmp_path / "x.npy")
    np.save(tmp_path / "one.npy", np.array(7, np.int16))
    assert read_dump(tmp_path / "one.npy", "int16", ()).shape == ()


def test_flat_arrays_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", map_features(X, "chw").reshape(-1))
    assert np.array_equal(read_dump(tmp_path / "x.npy", "int16", (2, 3, 4), layout="chw"), X)


def test_a_folder_of_dumps(tmp_path: Path) -> None:
    case = case_named("stream/small")
    write_dump(tmp_path / "y.hex", case.tensors["y"].values[:2])
    write_dump(tmp_path / "log.txt", X)
    (tmp_path / "sub").mkdir()
    dumps = read_dump_folder(tmp_path, case)
    assert dumps.absent == ("tail.next",) and dumps.unknown == ("log.txt", "sub")
    assert (dumps.found["y"].first, dumps.found["y"].stop) == (0, 2)
    assert dumps.found["y"].values.tobytes() == case.tensors["y"].values[:2].tobytes()
    write_dump(tmp_path / "tail.next.bin", case.tensors["tail.next"].values, big_endian=True)
    assert not np.array_equal(read_dump_folder(tmp_path, case).found["tail.next"].values, case.tensors["tail.next"].values)
    swapped = read_dump_folder(tmp_path, case, big_endian=True, first=1)
    assert np.array_equal(swapped.found["tail.next"].values, case.tensors["tail.next"].values)
    assert swapped.found["tail.next"].first == 0 and (swapped.found["y"].first, swapped.found["y"].stop) == (1, 3)
    write_dump(tmp_path / "y.bin", case.tensors["y"].values)
    with pytest.raises(InputError, match=r"both y.bin and y.hex hold 'y'"):
        read_dump_folder(tmp_path, case)
    with pytest.raises(InputError, match="is not a folder"):
        read_dump_folder(tmp_path / "y.bin", case)


def test_a_folder_of_dumps_in_a_layout(tmp_path: Path) -> None:
    """The layout is for feature maps; a network's PCM is never partial."""
    case = case_named("conv_causal/small")
    write_dump(tmp_path / "y.npy", map_features(case.tensors["y"].values, "hcwb", 16))
    found = read_dump_folder(tmp_path, case, layout="hcwb", pad_channels=16).found
    assert np.array_equal(found["y"].values, case.tensors["y"].values)
    network = case_named("network/tiny/offline")
    write_dump(tmp_path / "pcm_out.npy", network.tensors["pcm_out"].values[:1])
    with pytest.raises(InputError, match=r"pcm_out.npy: holds \[1, 300\], expected \[2, 300\]"):
        read_dump_folder(tmp_path, network, layout="chw")
    other = replace(case, tensors={**case.tensors, "y": replace(case.tensors["y"], format="int16")})
    with pytest.raises(InputError, match="holds uint16, int16 is stored as int16"):
        read_dump_folder(tmp_path, other, layout="hcwb", pad_channels=16)
