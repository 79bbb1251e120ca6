"""The kernel cache: keyed on every kernel source, in a folder of its own, silent about other packages."""

from __future__ import annotations

import shutil
from pathlib import Path

import numba
import pytest

from refimpl.numerics import jit


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the kernel sources that the digest is taken of."""
    for folder in jit.FAST_FOLDERS:
        shutil.copytree(jit.PACKAGE / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "tables"))
    monkeypatch.setattr(jit, "PACKAGE", tmp_path)
    return tmp_path


def test_any_kernel_source_changes_the_key(copied: Path) -> None:
    """Also a callee that is compiled into kernels of other files, which Numba's own key misses."""
    seen = {jit.source_digest(jit.FAST_FOLDERS)}
    sources = sorted(p for folder in jit.FAST_FOLDERS for p in (copied / folder).glob("*.py"))
    assert len(sources) > 8
    before = jit.source_digest()
    for path in sources:
        path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        digest = jit.source_digest(jit.FAST_FOLDERS)
        assert digest not in seen, path.name
        seen.add(digest)
        # The operators' own code stays compiled where only the fast path changes.
        assert (jit.source_digest() == before) == (path.parent.name == "fast"), path.name
        before = jit.source_digest()


def test_renaming_or_removing_a_source_changes_the_key(copied: Path) -> None:
    before = jit.source_digest()
    (copied / "operators" / "linear.py").rename(copied / "operators" / "dense.py")
    renamed = jit.source_digest()
    (copied / "operators" / "dense.py").unlink()
    assert len({before, renamed, jit.source_digest()}) == 3


def test_options_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jit.source_digest()
    monkeypatch.setitem(jit.OPTIONS, "nogil", False)
    assert jit.source_digest() != before


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIMPL_CACHE_DIR", str(tmp_path))
    assert jit.cache_folder().is_relative_to(tmp_path) and jit.cache_folder().name == jit.source_digest()[:16]


def test_other_packages_keep_their_cache_setting() -> None:
    before = numba.config.CACHE_DIR

    @jit.kernel
    def nothing(x):  # type: ignore[no-untyped-def]
        return x

    assert nothing(3) == 3 and before == numba.config.CACHE_DIR


def test_the_compiler_is_never_told_to_be_fast() -> None:
    assert jit.OPTIONS["fastmath"] is False and jit.OPTIONS["parallel"] is False
