"""Whether llguidance can hold an answer to a schema, and if not, which part of the schema is to blame."""

from __future__ import annotations

import json
import time
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from worker.chat.schema.document import SchemaError
from worker.chat.schema.rebuild import Rebuild

# The defaults give up in mid-answer on objects with 500 open or 2,000 closed optional properties; and verbose
# messages have the grammar in them.
LIMITS = LLParserLimits(
    max_items_in_row=20_000, step_max_items=200_000, max_grammar_size=100_000, verbose_errors=False
)
OPTIONS = {
    # With `u`, `{"\u0061": …}` would slip past the schema of a property named "a".
    "json_allowed_escapes": 'nrbtf\\"',
    # Python's own spacing. Being fixed, most of the text between two values need not be written by the model.
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
LOCATING_SECONDS = 0.5
_UNSATISFIABLE = "Unsatisfiable schema: "

Schema = dict[str, Any]


def enforceable(document: Any, *, at: str = "", lenient: bool = False) -> Schema:
    """A schema for llguidance that allows nothing but what `document`, or its part `at`, allows.

    Its references lead into its own `$defs`. Raises SchemaError where that cannot be had; `lenient` allows
    more instead, any object if need be, but for a document that is no schema at all, or too large.
    """
    if lenient:
        return _lenient(document, at)
    rebuild = Rebuild(document, at)
    schema = rebuild.schema()
    if rebuild.has_one_of:
        exact = Rebuild(document, at, narrow=False)
        _check(exact.schema(), exact)
    _check(schema, rebuild)
    return schema


def _lenient(document: Any, at: str) -> Schema:
    for patterns in (True, False):
        schema = Rebuild(document, at, lenient=True, patterns=patterns).schema()
        if not _error(schema):
            return schema
    return {"type": "object"}


def json_rule(schema: Schema) -> str:
    """Lark's expression for JSON, on one line, by a schema that `enforceable` has made."""
    return f"%json {_text(schema)}"


def _check(schema: Schema, rebuild: Rebuild) -> None:
    """Raises SchemaError about the smallest part that fails by itself."""
    reason = _error(schema)
    if not reason:
        return
    end = time.monotonic() + LOCATING_SECONDS
    for at, part in rebuild.parts:
        if time.monotonic() > end:
            break
        if isinstance(part, dict) and (why := _error({**part, "$defs": rebuild.definitions})):
            raise SchemaError(at, _sentence(why, part))
    raise SchemaError("", _sentence(reason, {}))


def _error(schema: Schema) -> str:
    """What llguidance has against it; nothing, if it takes it."""
    grammar = LLMatcher.grammar_from_json_schema(_text(schema))
    return LLMatcher.validate_grammar(grammar, limits=LIMITS)


def _text(schema: Schema) -> str:
    return json.dumps({"x-guidance": OPTIONS, **schema}, ensure_ascii=False)


def _sentence(error: str, part: Schema) -> str:
    if error.startswith("oneOf constraints"):
        return "'oneOf' cannot be enforced where branches overlap; use 'anyOf'"
    if error.startswith(_UNSATISFIABLE):
        return f"no value is allowed: {error.removeprefix(_UNSATISFIABLE)[:200]}"
    lines = error.splitlines()
    cause = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    about = next((f"'{keyword}'" for keyword in ("pattern", "patternProperties") if keyword in part), "it")
    return f"{about} cannot be enforced: {cause[:200]}"
