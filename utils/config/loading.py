"""Configuration files: found, read safely, checked, overridden.

YAML is read by PyYAML's safe loader (plus: ``1e-4`` is a number, a repeated key is an error), ``${NAME}``
takes an environment variable, ``section.key=value`` overrides win over the file.
"""

from __future__ import annotations

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
_MAX_CONFIG_BYTES = 1 << 20
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class _Loader(yaml.SafeLoader):
    """Safe YAML 1.1, with YAML 1.2's floats and without repeated keys or aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            # A few lines of nested aliases unfold into gigabytes; a config needs none.
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed in a config", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot before the exponent and reads `1e-4` as text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def find_config(name: str | os.PathLike[str]) -> Path:
    """The file that ``--config NAME`` means: the path itself, else in ``configs/``, with or without ``.yaml``.

    Raises:
        ConfigError: There is none; the message lists those in ``configs/``.
    """
    path = Path(name)
    tried = [path, CONFIG_FOLDER / path, CONFIG_FOLDER / f"{path}.yaml"]
    for candidate in tried:
        if candidate.is_file():
            return candidate
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
        interpolate: Sections in which an unset ``${NAME}`` is an error; None means all. Elsewhere it is
            kept as it stands, so that a command need not set what it does not use.

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
    for override in overrides:
        _apply_override(content, override)
    return parse_config(content, origin=str(path), interpolate=interpolate)


def parse_config(
    content: Mapping[str, Any],
    *,
    origin: str = "config",
    interpolate: Collection[str] | None = None,
) -> Config:
    """Validate plain data, such as the ``config`` of a checkpoint.

    Raises:
        ConfigError: As `load_config`; ``origin`` stands before the key.
    """
    filled = {
        section: _interpolate(
            value, f"{origin}: {section}", interpolate is None or section in interpolate
        )
        for section, value in content.items()
    }
    try:
        return Config.model_validate(filled)
    except ValidationError as error:
        raise ConfigError(
            "; ".join(f"{origin}: {_explain(detail)}" for detail in error.errors())
        ) from None


def _parse_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from error


def _apply_override(content: dict[str, Any], override: str) -> None:
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


def _explain(detail: ErrorDetails) -> str:
    location = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        known = _fields_at(detail["loc"][:-1])
        near = suggestion(location[-1], known)
        where = f" in '{'.'.join(location[:-1])}'" if location[:-1] else ""
        return f"unknown key '{location[-1]}'{where}; known: {', '.join(sorted(known))}{near}"
    message = detail["msg"].removeprefix("Value error, ")
    if not location:
        return message
    value = detail["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f", got {value!r:.80}"
    return f"{'.'.join(location)}: {message[0].lower()}{message[1:]}{shown}"


def _fields_at(location: Sequence[int | str]) -> list[str]:
    """Names of the keys of the section at ``location``."""
    section: type[BaseModel] = Config
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type), f"'{part}' is no section"
        section = annotation
    return list(section.model_fields)
