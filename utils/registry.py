"""Tables that map a name to ``module:attribute``, resolved on first use.

One table per folder of interchangeable parts (decoders, encoders, describers, ...) gives the
choices in ``--help``, the error for an unknown name, and the entries of a contract test suite.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from utils.errors import MissingPackageError, UnknownNameError


def suggestion(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of ``known``, or an empty string."""
    # 'BCE' is nearer to 'bce' than its letters say.
    by_lower = {entry.lower(): entry for entry in known}
    near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return f" (did you mean '{by_lower[near[0]]}'?)" if near else ""


class Registry(Mapping[str, str]):
    """Read-only mapping from entry name to its ``module:attribute``.

    Args:
        kind: What an entry is, for messages ("encoder").
        entries: Name to ``module:attribute``.
        requires: Entry name to the ``pip install`` arguments of the optional package it needs.
    """

    def __init__(
        self, kind: str, entries: Mapping[str, str], requires: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self._entries = dict(entries)
        self._requires = dict(requires or {})
        for name, target in self._entries.items():
            module, _, attribute = target.partition(":")
            is_complete = bool(module and attribute)
            assert is_complete, f"{kind} '{name}': '{target}' is not module:attribute"
        unknown = self._requires.keys() - self._entries.keys()
        assert not unknown, f"{kind}: packages for {sorted(unknown)}, which are no entries"

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, name: str) -> None:
        """Raises ``UnknownNameError``, which lists the known names, unless ``name`` is an entry."""
        if name not in self._entries:
            known = ", ".join(self)
            raise UnknownNameError(
                f"unknown {self.kind} '{name}'; known: {known}{suggestion(name, self)}"
            )

    def resolve(self, name: str) -> Any:
        """Import and return the object behind ``name``.

        Raises:
            UnknownNameError: ``name`` is not in the table.
            MissingPackageError: The entry needs an optional package that is not installed.
        """
        self.check(name)
        module_name, _, attribute = self._entries[name].partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            is_ours = (error.name or "").partition(".")[0] == module_name.partition(".")[0]
            if name not in self._requires or is_ours:
                raise
            what = (
                "is not installed"
                if isinstance(error, ModuleNotFoundError)
                # Such as a shared library that is not on this machine.
                else f"is installed but cannot be imported ({error})"
            )
            raise MissingPackageError(
                f"{self.kind} '{name}' needs the package '{error.name}', which {what}; "
                f"run: pip install {self._requires[name]}"
            ) from error
        return getattr(module, attribute)
