"""The structure that the project promises: imports point one way, and one place rounds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "refimpl"

# A module may import from its own layer and from those before it.
LAYERS = (
    ("errors", "version"),
    ("numerics",),
    ("profiles", "presets", "operators"),
    ("program",),
    ("fast",),
    ("quantization",),
    ("networks", "arrays_io"),
    ("weights_io", "device_tables", "quality"),
    ("session", "audio"),
    ("calibration", "cli", "__init__"),
    ("run", "cluster", "convert", "quantize", "sqnr", "bench", "cost", "inspect"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The refimpl layers that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "refimpl":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            # ``from refimpl import load`` reads the package's front door.
            found |= {name if name in RANK else "__init__" for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("refimpl.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    assert layer(path) in RANK, f"{path.name} has no layer: add it to LAYERS"
    later = {name for name in imports(path) if RANK[name] > RANK[layer(path)]}
    assert not later, f"{layer(path)} imports {sorted(later)}, which stand after it"


TREES = ("refimpl", "golden_vectors", "conformance")


def test_trees_point_one_way() -> None:
    """The model knows nothing of its vectors, the vectors nothing of the kit that runs them, and none of training."""
    for rank, tree in enumerate(TREES):
        for path in (PACKAGE.parent / tree).rglob("*.py"):
            found = set()
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.split(".")[0])
                elif isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
            assert not found & {*TREES[rank + 1 :], "weights", "tests"}, path


def test_every_layer_is_real() -> None:
    present = {layer(path) for path in modules()}
    # sqnr, bench, cli may come and go; the spine may not.
    assert {"numerics", "operators", "program", "networks", "session", "run"} <= present


# Packing to bits and the audio boundary round too; every entry says why it is not in numerics.
ALLOWED_ROUNDING = {
    "audio.py": "24-bit and float files to PCM before the guarantee begins (rule A-2)",
    "quantization/scheme.py": "float64 constants of lowering: codes of weights, zero points, multipliers",
    "quantization/lowering.py": "float64 constants of lowering: biases, windows",
    "run.py": "figures shown to a person",
    "quality.py": "figures shown to a person",
    "quantize.py": "seconds given by a person, to samples",
    "fast/linear.py": "bounds of sums: the proof that 32-bit lanes hold a law's values",
    "fast/elementwise.py": "the same, and constants",
    "fast/vector.py": "the rules of numerics as vector instructions, which tests/test_fast.py holds equal to them",
}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rounding_only_in_numerics(path: Path) -> None:
    """No ``>>`` by a variable, no rint, round, floor or clip outside ``numerics/``, but for the listed exceptions."""
    name = str(path.relative_to(PACKAGE))
    if layer(path) == "numerics" or name in ALLOWED_ROUNDING:
        return
    bad = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"rint", "round", "around", "floor", "ceil", "trunc", "clip", "fix"}:
                bad.append((node.lineno, called))
        # In kernels an arithmetic right shift is a rounding; extracting bit fields of a BF16 pattern (>> 7) is not.
        if layer(path) in ("operators", "fast") and isinstance(node, ast.BinOp) and isinstance(node.op, ast.RShift):
            text = ast.unparse(node)
            if not text.endswith(("np.int64(7)", ">> 1")):
                bad.append((node.lineno, text))
    assert not bad, f"{name} rounds outside numerics: {bad}"


def test_no_branch_on_names() -> None:
    """No operator or lowering rule asks for a profile's or a preset's name."""
    for folder in ("operators", "quantization", "numerics"):
        for path in sorted((PACKAGE / folder).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    text = ast.unparse(node)
                    assert "profile.name" not in text and "preset.name" not in text, f"{path.name}:{node.lineno}: {text}"


def test_no_libm_no_blas_no_fastmath_in_kernels() -> None:
    """Kernels call no transcendental function, no dot product, and no compiler switch but the package's own."""
    banned = {"exp", "log", "sin", "cos", "tanh", "sqrt", "pow", "dot", "matmul", "fma", "einsum", "expm1", "log1p"}
    for folder in ("operators", "numerics", "fast"):
        for path in sorted((PACKAGE / folder).glob("*.py")):
            if path.name == "make_tables.py":
                continue  # runs on the developer's machine with a multiple-precision library
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in {"np", "math"}:
                    assert node.attr not in banned, f"{path.name}:{node.lineno}: {node.attr}"
                if isinstance(node, ast.BinOp):
                    assert not isinstance(node.op, ast.MatMult | ast.Pow) or isinstance(node.left, ast.Constant), path.name
            if path.name != "jit.py":
                assert "njit" not in path.read_text(encoding="utf-8"), f"{path.name} bypasses numerics/jit.py"
