"""Telling a model which tools there are, and holding it to calling them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from worker.chat.constraint import Constraints
from worker.chat.formats.record import Calls
from worker.chat.options import Tool, ToolUse
from worker.chat.schema.document import SchemaError, check_nesting
from worker.chat.schema.enforceable import Schema, enforceable
from worker.protocol import InvalidRequest

MAX_CALLS = 8  # in one answer that has to call; small models would go on for ever

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


def instructions(tools: Sequence[Tool]) -> str:
    """For models whose template does not know tools."""
    signatures = "\n".join(json.dumps(definition(tool), ensure_ascii=False) for tool in tools)
    return _INSTRUCTIONS.format(signatures=signatures)


def definition(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI's API and the templates have it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": _schema(tool)}
    return {"type": "function", "function": function}


def call_rules(use: ToolUse, calls: Calls, constraints: Constraints) -> list[str]:
    """Lark's rule `calls`, and those it needs: one call, or several if that is wanted, of any tool on offer.

    Raises InvalidRequest for a strict tool whose parameters cannot be enforced.
    """
    written = constraints.written
    several = use.parallel and calls.several
    more = f"({written(calls.between)} call){{0,{MAX_CALLS - 1}}}" if several else ""
    parts = [f"calls: {written(calls.begin)} call {more} {written(calls.end)}"]
    return [*parts, *_one_of(use, calls, constraints)]


def free_rules(use: ToolUse, calls: Calls, constraints: Constraints) -> list[str]:
    """Lark's rule `calls`, and those it needs: any text, and a call of a tool wherever one begins."""
    written = constraints.written
    trigger = calls.trigger
    more = "" if trigger in calls.between else f"({written(calls.between)} call)*"
    return [
        f"calls: (text {written(calls.begin.partition(trigger)[2])} call {more} {written(calls.end)})* LAST?",
        constraints.until("text", trigger),
        "LAST: /(?s:.+)/",
        *_one_of(use, calls, constraints),
    ]


def check_strict(use: ToolUse) -> None:
    """Raises InvalidRequest for a strict tool that cannot be enforced."""
    for tool in use.tools:
        if tool.strict:
            _arguments(tool)


def _one_of(use: ToolUse, calls: Calls, constraints: Constraints) -> list[str]:
    names = [f"call_{i}" for i in range(len(use.tools))]
    rules = [
        rule
        for name, tool in zip(names, use.tools, strict=True)
        for rule in calls.syntaxes[0].rules(name, tool.name, _arguments(tool), constraints)
    ]
    return [f"call: {' | '.join(names)}", *rules]


def _arguments(tool: Tool) -> Schema:
    try:
        return _resolved(enforceable(_schema(tool), lenient=not tool.strict))
    except SchemaError as error:
        raise _invalid(tool, f"cannot be enforced: {error}") from error


def _resolved(schema: Schema) -> Schema:
    """With its properties at the root, where those families look for them that do not write JSON."""
    definitions = schema.get("$defs", {})
    root = definitions.get(schema.get("$ref", "").removeprefix("#/$defs/"))
    return schema if root is None else {**root, "$defs": definitions}


def _invalid(tool: Tool, why: str) -> InvalidRequest:
    message = f"The parameters of the tool '{tool.name}' {why}."
    return InvalidRequest(message, "tools", "invalid_function_parameters")


def _schema(tool: Tool) -> dict[str, Any]:
    """An object in any case, and without parameters an empty one."""
    schema = dict(tool.parameters or {})
    given = schema.get("type", "object")
    if given != "object" and not (isinstance(given, list) and "object" in given):
        raise _invalid(tool, "should be a JSON Schema of type 'object', with each of them in 'properties'")
    try:
        check_nesting(schema)
    except SchemaError as error:
        raise _invalid(tool, f"cannot be used: {error}") from error
    schema["type"] = "object"
    if not schema.get("properties") and not {"additionalProperties", "anyOf", "oneOf", "allOf", "$ref"} & set(
        schema
    ):
        schema.update(properties={}, additionalProperties=False)
    return schema
