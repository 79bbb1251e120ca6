"""The process in which a Python class under test lives: one case folder after another, one line of JSON for each.

A process of its own, because a device may crash or hang. What the device prints goes to stderr; stdout is the kit's.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golden_vectors.case import read_case
from refimpl.cli import printable


def host(name: str) -> int:
    """Make the device ``module:Class``, say that it is ready, then run each case that stdin names."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        module, _, attribute = name.partition(":")
        device = getattr(importlib.import_module(module), attribute)()
        run = device.run
    except Exception as error:
        answer(status="error", message=described(error))
        return 1
    answer(status="ready", message=getattr(sys.modules[module], "__file__", None) or "")
    for line in sys.stdin:
        case_folder, output = (Path(part) for part in json.loads(line))
        try:
            extra = write_outputs(run(read_case(case_folder)), output, case_folder)
            answer(status="ran", message=extra)
        except NotImplementedError as error:
            answer(status="unsupported", message=described(error))
        except Exception as error:
            answer(status="error", message=described(error))
    return 0


def described(error: BaseException) -> str:
    """An exception as one bounded line."""
    text = " ".join(str(error).split())
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)[:500]


def write_outputs(values: Any, output: Path, case_folder: Path) -> str:
    """Write the arrays of the case's tensors to ``output``; returns a note on those that no tensor of the case has."""
    if not isinstance(values, Mapping):
        raise TypeError(f"run returned {type(values).__name__}, not a mapping of tensor names to arrays")
    document = json.loads((case_folder / "case.json").read_text(encoding="utf-8"))
    known = {name for name, entry in document["tensors"].items() if entry["role"] in ("expected", "next_state")}
    known |= set((document["network"] or {}).get("crc32", ()))
    extra = [str(name) for name in values if name not in known and name != "digests"]
    for name in known & set(values):
        array = np.asarray(values[name])
        np.save(output / f"{name}.npy", np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
    if "digests" in values:
        (output / "digests.json").write_text(json.dumps(values["digests"]), encoding="utf-8")
    return f"{len(extra)} arrays that are no tensor of the case, such as {extra[0]!r}" if extra else ""


if __name__ == "__main__":
    sys.exit(host(sys.argv[1]))
