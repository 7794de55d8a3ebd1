"""Telling a model which tools there are, and holding it to calling them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.chat.constraint import Constraints
from worker.chat.options import Tool, ToolUse
from worker.chat.schema.document import SchemaError, check_nesting
from worker.chat.schema.enforceable import Schema, enforceable, json_rule
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


@dataclass(frozen=True, slots=True)
class CallFormat:
    """How a model was trained to write calls."""

    begin: str
    end: str
    between: str
    arguments_key: str = "arguments"


_HERMES = CallFormat("<tool_call>\n", "\n</tool_call>", "\n</tool_call>\n<tool_call>\n")
_MISTRAL = CallFormat("[TOOL_CALLS][", "]", ", ")
_LLAMA = CallFormat("", "", "; ", "parameters")


def call_format(template: str, *, knows_tools: bool) -> CallFormat:
    """What the template's own words tell of the model's training."""
    if not knows_tools or "<tool_call>" in template:
        return _HERMES
    if "[TOOL_CALLS]" in template:
        return _MISTRAL
    return _LLAMA if '"parameters"' in template else _HERMES


def instructions(tools: Sequence[Tool]) -> str:
    """For models whose template does not know tools."""
    signatures = "\n".join(json.dumps(definition(tool), ensure_ascii=False) for tool in tools)
    return _INSTRUCTIONS.format(signatures=signatures)


def definition(tool: Tool) -> dict[str, Any]:
    """The tool as OpenAI's API and the templates have it."""
    function = {"name": tool.name, "description": tool.description or "", "parameters": _schema(tool)}
    return {"type": "function", "function": function}


def call_rules(use: ToolUse, form: CallFormat, constraints: Constraints) -> list[str]:
    """Lark's rule `calls`, and those it needs: one call, or several if that is wanted, of any tool on offer.

    Raises InvalidRequest for a strict tool whose parameters cannot be enforced.
    """
    written = constraints.written
    more = f"({written(form.between)} call){{0,{MAX_CALLS - 1}}}" if use.parallel else ""
    return [
        f"calls: {written(form.begin)} call {more} {written(form.end)}",
        f"call: {' | '.join(f'call_{i}' for i in range(len(use.tools)))}",
        *(f"call_{i}: {json_rule(_call(tool, form))}" for i, tool in enumerate(use.tools)),
    ]


def check_strict(use: ToolUse) -> None:
    """Raises InvalidRequest for a strict tool that cannot be enforced, even if no call is forced."""
    for tool in use.tools:
        if tool.strict:
            _arguments(tool)


def _call(tool: Tool, form: CallFormat) -> Schema:
    """A call as JSON. Its name is no text before the arguments: that might be read as more than itself."""
    arguments = _arguments(tool)
    definitions = arguments.pop("$defs", {})
    properties = {"name": {"const": tool.name}, form.arguments_key: arguments}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        "$defs": definitions,
    }


def _arguments(tool: Tool) -> Schema:
    try:
        return enforceable(_schema(tool), lenient=not tool.strict)
    except SchemaError as error:
        raise _invalid(tool, f"cannot be enforced: {error}") from error


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
