"""Annotation files read strictly: text in UTF-8, and JSON in which nothing is lost without a word.

Below `utils.data.annotations` and every importer of `utils.data.formats`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from utils.errors import AnnotationError


def read_text(path: Path, *, named_by: str | None = None, needs: str | None = None) -> str:
    """The text of an annotation file.

    Args:
        path: The file.
        named_by: The setting that gave ``path``, for the message where there is no such file.
        needs: What the file must hold, for the message where it is empty.

    Raises:
        AnnotationError: It is missing, no UTF-8, or empty.
    """
    try:
        # Editors on Windows put a byte order mark first.
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        remedy = "" if named_by is None else f"; {named_by} names it"
        raise AnnotationError(f"{path}: no such annotation file{remedy}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        remedy = "" if needs is None else f"; it needs {needs}"
        raise AnnotationError(f"{path}: the file is empty{remedy}")
    return text


def read_json(path: Path, *, named_by: str | None = None, needs: str | None = None) -> Any:
    """The content of a JSON file, strictly: no field twice, no NaN.

    Args:
        path: As for `read_text`.
        named_by: As for `read_text`.
        needs: As for `read_text`.

    Raises:
        AnnotationError: As `read_text`, or it is not valid JSON.
    """
    text = read_text(path, named_by=named_by, needs=needs)
    try:
        return json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not valid JSON: {error}") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON readers keep the last of two 'events' lists and lose the first without a word.
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the field '{twice}' twice")
    return content


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON value")
