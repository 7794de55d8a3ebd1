"""A JSON Schema document as a client wrote it: whether it can be relied on, and where its references lead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from worker.protocol import MAX_NESTING


class SchemaError(ValueError):
    """A schema that cannot be enforced: `at` is a JSON pointer into it, `reason` says why."""

    def __init__(self, at: str, reason: str) -> None:
        place = f"at '{at.removeprefix('#')}'" if at.removeprefix("#") else "at its root"
        super().__init__(f"{place}, {reason}")
        self.at, self.reason = at, reason


def check_document(document: Any) -> None:
    """Raises SchemaError for what a template, JSON's own writer or llguidance's reader would give up on."""
    check_nesting(document)
    try:
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise SchemaError("", "one of its strings has a surrogate that is not half of a pair") from None
    except ValueError:
        raise SchemaError("", "one of its numbers is not finite, which JSON does not know") from None
    except TypeError as error:
        raise SchemaError("", f"it is not JSON: {error}") from error


def check_nesting(document: Any) -> None:
    """Raises SchemaError where arrays and objects nest deeper than in any request."""
    level = [document]
    for _ in range(MAX_NESTING + 1):
        if not (level := [child for value in level for child in _children(value)]):
            return
    raise SchemaError("", f"its arrays and objects nest deeper than {MAX_NESTING} levels")


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def resolve(document: Any, reference: Any, at: str) -> tuple[Any, str]:
    """What `#`, `#/$defs/Item` or `#anchor` leads to, and its place."""
    own = document.get("$id") if isinstance(document, Mapping) else None
    pointer = (
        reference.removeprefix(own) if isinstance(reference, str) and isinstance(own, str) else reference
    )
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("#")):
        raise SchemaError(
            at, f"'$ref' can only point into the schema itself ('#/$defs/…'), not to {reference!r}"
        )
    pointer = pointer.removeprefix("#")
    if pointer and not pointer.startswith("/"):
        return _anchored(document, pointer, at)
    target = document
    for part in pointer.split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and len(key) < 10 and int(key) < len(target):
            target = target[int(key)]
        else:
            raise SchemaError(at, f"'$ref' points to {reference!r}, which is not there")
    return target, pointer


def _anchored(document: Any, name: str, at: str) -> tuple[Any, str]:
    """Since 2019 `$anchor` gives a schema a name, before that an `$id` that begins with '#'."""
    todo: list[tuple[Any, str]] = [(document, "")]
    while todo:
        value, place = todo.pop()
        if isinstance(value, Mapping):
            if value.get("$anchor") == name or f"#{name}" in (value.get("$id"), value.get("id")):
                return value, place
            todo += [(child, f"{place}/{key}") for key, child in value.items()]
        elif isinstance(value, list):
            todo += [(child, f"{place}/{index}") for index, child in enumerate(value)]
    raise SchemaError(at, f"'$ref' points to '#{name}', which is not there")
