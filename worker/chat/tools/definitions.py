"""Tools as chat templates are given them, and as text where a template has no place for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

_NO_PARAMETERS = {"type": "object", "properties": {}}
_INSTRUCTIONS = """\
# Tools

You may call one or more functions. Their signatures are given as JSON Schemas within <tools></tools>:
<tools>
{signatures}
</tools>

To call a function, write a JSON object with its name and arguments within <tool_call></tool_call>:
<tool_call>
{{"name": "the function's name", "arguments": {{"parameter": "value"}}}}
</tool_call>
Results come back within <tool_response></tool_response>. If no function is needed, answer directly."""


def normalized(tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """With all that templates look for, which the API lets a client leave out."""
    return [{"type": "function", **tool, "function": _function(tool["function"])} for tool in tools]


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in function.items() if value is not None}
    return {
        "name": given["name"],
        "description": "",
        **given,
        "parameters": _NO_PARAMETERS | given.get("parameters", {}),
    }


TOOL_VARIABLES = frozenset({"tools", "functions"})


def tool_variables(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """What templates know them by: nearly all `tools`, Firefunction JSON text and the time."""
    functions = json.dumps([tool["function"] for tool in tools or ()], ensure_ascii=False)
    return {"tools": tools, "functions": functions, "datetime": datetime.now().strftime("%Y-%m-%d %H:%M:%S")}


def with_plain_schemas(value: Any) -> Any:
    """For templates that expect one type and a description: `["string", "null"]` is a nullable string."""
    if isinstance(value, list):
        return [with_plain_schemas(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {key: with_plain_schemas(item) for key, item in value.items()}
    if isinstance(plain.get("properties"), dict):
        plain["properties"] = {
            name: {"description": "", **schema} if isinstance(schema, dict) else schema
            for name, schema in plain["properties"].items()
        }
        plain.setdefault("required", [])
    match value.get("type"):
        case [*types] if types:
            named = [name for name in types if name != "null"]
            plain |= {"type": named[0] if named else "null", "nullable": "null" in types}
    return plain


def instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    """What a model has to know that was never taught a format for calls."""
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return _INSTRUCTIONS.format(signatures=signatures)
