"""Configuration files: found, read safely, checked, overridden.

YAML is read by PyYAML's safe loader (plus: ``1e-4`` is a number, a repeated key is an error);
``${NAME}`` takes an environment variable; ``section.key=value`` overrides win over the file.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from utils.config.schema import Config
from utils.errors import ConfigError
from utils.registry import suggestion

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
_MAX_CONFIG_BYTES = 1 << 17
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1, with YAML 1.2's floats and without repeated keys or aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            # A few lines of nested aliases unfold into gigabytes; a config needs none.
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed in a config", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # PyYAML refuses it below.
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in the exponent: it reads `1e-4` and `1.5e3` as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def find_config(name: str | os.PathLike[str]) -> Path:
    """The file that ``--config NAME`` means.

    That path; else in ``configs/``, with or without ``.yaml``; else relative to the checkout, so
    that ``configs/config.yaml`` is found from any folder.

    Raises:
        ConfigError: There is none; the message lists those in ``configs/``.
    """
    path = Path(name)
    tried = [
        path,
        CONFIG_FOLDER / path,
        CONFIG_FOLDER / f"{path}.yaml",
        CONFIG_FOLDER.parent / path,
    ]
    try:
        for candidate in tried:
            if candidate.is_file():
                return candidate
    except OSError as error:
        raise ConfigError(f"config '{name}' cannot be read: {error.strerror}") from error
    known = sorted(file.name for file in CONFIG_FOLDER.glob("*.yaml"))
    raise ConfigError(
        f"config '{name}' is neither a file nor in {CONFIG_FOLDER.name}/; "
        f"there: {', '.join(known)}{suggestion(path.name, known)}"
    )


def load_config(
    name: str | os.PathLike[str] = "config.yaml",
    overrides: Sequence[str] = (),
    *,
    interpolate: Collection[str] | None = None,
) -> Config:
    """Read, override and validate a configuration.

    Args:
        name: See `find_config`.
        overrides: ``section.key=value``; the value is read as YAML.
        interpolate: Sections in which an unset ``${NAME}`` is an error; None means all. Elsewhere
            it is kept as it stands, so that a command need not set what it does not use.

    Raises:
        ConfigError: The message names file, key, value and the allowed values or the nearest key.
    """
    path = find_config(name)
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes; that is no config")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    content = _parse_yaml(text, str(path))
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: the top level must be sections such as 'data:' and 'model:'")
    return parse_config(content, overrides, origin=str(path), interpolate=interpolate)


def parse_config(
    content: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    origin: str = "config",
    interpolate: Collection[str] | None = None,
) -> Config:
    """Override and validate plain data, such as the ``config`` of a checkpoint.

    Args:
        content: Sections by name; is not changed.
        overrides: As for `load_config`.
        origin: Where ``content`` comes from, for messages.
        interpolate: As for `load_config`.

    Raises:
        ConfigError: As `load_config`; ``origin`` stands before the key.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"{origin}: must be sections such as 'data' and 'model', got {content!r:.80}"
        )
    changed = copy.deepcopy(dict(content))
    origins = [(_apply_override(changed, override), f"--set {override}") for override in overrides]
    return _validate(changed, origin, interpolate, origins)


def _validate(
    content: Mapping[str, Any],
    origin: str,
    interpolate: Collection[str] | None,
    origins: Sequence[tuple[str, str]],
) -> Config:
    """See `parse_config`; ``origins`` are keys that came from elsewhere, and from where."""
    filled = {
        section: _interpolate(
            value, f"{origin}: {section}", interpolate is None or section in interpolate
        )
        for section, value in content.items()
    }
    try:
        return Config.model_validate(filled)
    except ValidationError as error:
        by_key: dict[str, list[ErrorDetails]] = {}
        for detail in error.errors():
            by_key.setdefault(_key_of(detail["loc"]), []).append(detail)
        raise ConfigError(
            "; ".join(
                f"{_origin_of(key, origins, origin)}: {_explain(key, details)}"
                for key, details in by_key.items()
            )
        ) from None


def _origin_of(key: str, origins: Sequence[tuple[str, str]], default: str) -> str:
    """Who gave ``key``: the last override of it or of a section around it, else the file."""
    for dotted, origin in reversed(origins):
        if key == dotted or key.startswith((f"{dotted}.", f"{dotted}[")):
            return origin
    return default


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from error


def _apply_override(content: dict[str, Any], override: str) -> str:
    """Put one ``section.key=value`` into ``content``; returns the key."""
    dotted, separator, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not separator or len(keys) < 2 or not all(keys):
        raise ConfigError(f"--set {override}: write it as section.key=value")
    target = content
    for depth, key in enumerate(keys[:-1]):
        child = target.get(key)
        if child is None:
            child = target[key] = {}
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {override}: '{'.'.join(keys[: depth + 1])}' is a value, not a section"
            )
        target = child
    target[keys[-1]] = _parse_yaml(text, f"--set {override}")
    return ".".join(keys)


def _interpolate(value: Any, where: str, required: bool) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, f"{where}.{key}", required) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, f"{where}[{i}]", required) for i, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            if required:
                raise ConfigError(
                    f"{where} uses ${{{match[1]}}}, which is not set; run: export {match[1]}=..."
                )
            return match[0]
        return found

    return _VARIABLE.sub(replace, value)


def _key_of(location: Sequence[int | str]) -> str:
    """``section.key[0]`` for pydantic's location, without the branches of unions that it names."""
    section: type[BaseModel] | None = Config
    key = ""
    for part in location:
        if isinstance(part, int) and section is None:
            key += f"[{part}]"
        elif section is not None:
            key += f".{part}" if key else str(part)
            field = section.model_fields.get(str(part))
            section = None if field is None else _section_type(field.annotation)
    return key


def _section_type(annotation: Any) -> type[BaseModel] | None:
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None


def _explain(key: str, details: Sequence[ErrorDetails]) -> str:
    """One sentence on all that is wrong with ``key``: a value of a union fails once per branch."""
    first = details[0]
    if first["type"] == "extra_forbidden":
        section, _, name = key.rpartition(".")
        known = _fields_of(section)
        where = f" in '{section}'" if section else ""
        return (
            f"unknown key '{name}'{where}; known: {', '.join(sorted(known))}"
            f"{suggestion(name, known)}"
        )
    # Once per wording: `float` and `Literal` of one field may say the same.
    text = ", or ".join(dict.fromkeys(_wording(detail) for detail in details))
    if not key:
        return text
    value = first["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f", got {value!r:.80}"
    return f"{key}: {text}{shown}"


def _wording(detail: ErrorDetails) -> str:
    if detail["type"] == "model_type":
        return "should be a section with keys of its own"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return message[0].lower() + message[1:]


def _fields_of(dotted: str) -> list[str]:
    """Names of the keys of the section ``dotted``; of all sections where it is empty."""
    section: type[BaseModel] = Config
    for part in dotted.split(".") if dotted else ():
        inner = _section_type(section.model_fields[part].annotation)
        assert inner is not None, f"'{part}' is no section"
        section = inner
    return list(section.model_fields)
