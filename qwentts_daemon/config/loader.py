"""Loads the configuration from a YAML file, QWENTTS_<SECTION>_<KEY> and the command line, and validates it strictly.

Later sources override earlier ones: default < file < environment < command line. The keys and defaults: `schema`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from ..errors import ConfigError
from ..suggestions import did_you_mean
from .schema import Config

ENV_PREFIX = "QWENTTS_"
ENV_CONFIG = "QWENTTS_CONFIG"
IN_YAML = {
    "tuple_type": "write a list, such as [one, another]",
    "dict_type": "write names and values, such as {name: value}",
    "model_type": "write keys and values, such as {key: value}",
}
"""How to write a value in YAML, by the type of pydantic's error."""


def load(path: Path | None, environment: Mapping[str, str], settings: Sequence[str] = ()) -> Config:
    """Load the configuration from all sources; `settings` are `section.key=value` arguments. Raises ConfigError."""
    values = _read_file(path) if path else {}
    _merge(values, _from_environment(environment))
    _merge(values, dict(_from_setting(word) for word in settings))
    return _validate(values, str(path) if path else "configuration")


# --- sources --------------------------------------------------------------------------------------------------

Values = dict[str, Any]
Key = tuple[str, str]


def _read_file(path: Path) -> Values:
    try:
        document = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as an invalid date
        raise ConfigError(f"{path}: invalid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `wyoming:`, found a {type(document).__name__}")
    return document


def _from_environment(environment: Mapping[str, str]) -> dict[Key, Any]:
    known = {
        f"{ENV_PREFIX}{section}_{key}".upper(): (section, key)
        for section, field in Config.model_fields.items()
        for kind in _models(field.annotation)
        for key in kind.model_fields
    }
    given = {name: text for name, text in environment.items() if name.startswith(ENV_PREFIX) and name != ENV_CONFIG}
    for name in given:
        if name not in known:
            raise ConfigError(f"environment variable {name}: unknown{did_you_mean(name, known)}")
    return {
        known[name]: text if _is_secret(known[name]) else _parse_value(text, name)  # 0123 is a password, not a number
        for name, text in given.items()
    }


def _from_setting(word: str) -> tuple[Key, Any]:
    path, equals, text = word.partition("=")
    section, dot, key = path.partition(".")
    if not (equals and dot and key):
        raise ConfigError(f"--set {word}: write it as section.key=value")
    if _is_secret((section, key)):
        raise ConfigError(
            f"--set {path}: other users of this machine could read it; use {path}_file or "
            + f"{ENV_PREFIX}{section}_{key}".upper()
        )
    return (section, key), _parse_value(text, f"--set {path}")


def _parse_value(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not a valid YAML value: {text!r:.80}") from error


def _merge(values: Values, changes: Mapping[Key, Any]) -> None:
    for (section, key), value in changes.items():
        inside = values.get(section)
        if inside is not None and not isinstance(inside, dict):
            return  # validation reports it
        values[section] = {**(inside or {}), key: value}


class _StrictLoader(yaml.SafeLoader):
    """Reject duplicate keys, of which YAML silently takes the last, and aliases, which may expand exponentially."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            problem = "aliases are not supported: repeat the value instead"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} must be a string", problem_mark=key_node.start_mark
                )
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# --- validation -----------------------------------------------------------------------------------------------


def _validate(values: Values, source: str) -> Config:
    filled = _lists_to_tuples({section: inside for section, inside in values.items() if inside is not None})
    try:
        return Config.model_validate(filled)
    except ValidationError as error:
        problems = [_explain(dict(problem), filled) for problem in error.errors()]
        raise ConfigError(f"{source}: " + "; ".join(problems)) from None


def _explain(problem: Mapping[str, Any], values: Values) -> str:
    path, tags = _split_tags(problem["loc"], values)
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(path[-1], _siblings(path, tags))}"
    if problem["type"] == "union_tag_invalid":
        found, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
        return f"{where}.type: must be one of {known} (found {found!r:.60})"
    if problem["type"] == "union_tag_not_found":
        return f"{where}: needs a type (found {problem['input']!r:.60})"
    reason = IN_YAML.get(problem["type"]) or str(problem["msg"]).removeprefix("Value error, ")
    hidden = isinstance(problem["input"], dict) or _is_secret(tuple(path[:2]))
    return f"{where}: {reason[:1].lower()}{reason[1:]}" + ("" if hidden else f" (found {problem['input']!r:.60})")


def _is_secret(key: tuple[str, ...]) -> bool:
    """Whether this section.key holds a secret, which must not appear in messages."""
    section = Config.model_fields.get(key[0])
    kinds = _models(section.annotation) if section and len(key) == 2 else []
    fields = [kind.model_fields[key[1]] for kind in kinds if key[1] in kind.model_fields]
    return any(SecretStr in (field.annotation, *get_args(field.annotation)) for field in fields)


def _split_tags(location: Sequence[str | int], values: Any) -> tuple[list[str], set[str]]:
    """Return the path of a problem in the file and, separately, the `type` of each mapping on that path."""
    path: list[str] = []
    tags: set[str] = set()
    inside = values
    for part, following in itertools.pairwise((*location, None)):
        if following is not None and isinstance(inside, dict) and inside.get("type") == part:
            tags.add(str(part))
            inside = {key: value for key, value in inside.items() if key != "type"}
            continue
        path.append(str(part))
        inside = inside[part] if _holds(inside, part) else None
    return path, tags


def _holds(values: Any, part: Any) -> bool:
    if isinstance(values, dict):
        return part in values
    return isinstance(values, tuple | list) and isinstance(part, int) and part < len(values)


def _siblings(path: Sequence[str], tags: set[str]) -> list[str]:
    """Return the keys that are valid instead of the last one of `path`, in sections of the types in `tags`."""
    kinds: list[type[BaseModel]] = [Config]
    for word in path[:-1]:
        if fields := [kind.model_fields[word] for kind in kinds if word in kind.model_fields]:
            kinds = [kind for field in fields for kind in _models(field.annotation)]
    kinds = [kind for kind in kinds if "type" not in kind.model_fields or _type_of(kind) in tags]
    return [name for kind in kinds for name in kind.model_fields]


def _type_of(kind: type[BaseModel]) -> Any:
    return get_args(kind.model_fields["type"].annotation)[0]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the section models in a key's annotation, including those inside lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for inside in get_args(annotation) for kind in _models(inside)]


def _lists_to_tuples(value: Any) -> Any:
    """Convert YAML's lists to the tuples of immutable sections, recursively."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(inside) for inside in value)
    return value
