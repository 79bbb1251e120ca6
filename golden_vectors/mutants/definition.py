"""What a mutant is: one textual change of one source file of refimpl, and where it must be caught."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LEVELS = ("numerics", "operators", "layers", "lstm", "block", "frame", "stream", "network")


@dataclass(frozen=True)
class Mutant:
    """A bug as a port could have it.

    file: below ``refimpl/``; old: text that occurs there once, or, with ``index``, at least ``index + 1`` times; level: the
    lowest one at which the rule is visible, where some case must fail; flags: one of them must be among that case's flags;
    near: ids of the cases to try first, shell-style, where few show the bug; equivalent: why, in words, the change can alter
    no result. No case of the level may fail then.
    """

    file: str
    id: str
    rule: str
    level: str
    bug: str
    old: str
    new: str
    index: int | None = None
    flags: tuple[str, ...] = ()
    near: str = ""
    equivalent: str = ""

    def apply(self, text: str) -> str:
        """``text`` with the change made; ValueError where ``old`` does not occur as stated."""
        found = text.count(self.old)
        if (found != 1) if self.index is None else (found <= self.index):
            raise ValueError(f"mutant {self.id}: its old text occurs {found} times in {self.file}")
        at = -1
        for _ in range((self.index or 0) + 1):
            at = text.index(self.old, at + 1)
        return text[:at] + self.new + text[at + len(self.old) :]

    def mutate(self, package: Path) -> None:
        """Make the change in the copy of refimpl at ``package``."""
        path = package / self.file
        path.write_text(self.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
