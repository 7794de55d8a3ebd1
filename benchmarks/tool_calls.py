"""Tool calls: each request has to call one of four tools, with about 75 tokens of name and arguments.

Most of such a call is forced: names, quotes, braces and the values' beginnings follow from the schemas, so a
server that does not ask the model for them answers sooner. The figure is calls per second; a call that is not
valid by its tool's schema is an error. All arguments are bounded, or a small model would go on for ever.

The same is asked for as structured output too (`by_schema`): llama-server lets a model write freely before a
call, also where one is required, and a small model then never comes to it (each is an error); a schema it
forces from the first token on.

The default model's own chat template knows no tools, and llama-server then ignores them. So all servers are
given one that does, in the format of Hermes and Qwen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema

from benchmarks.client import closed_loop
from benchmarks.loads import warm_up
from benchmarks.replies import Reply, decode
from benchmarks.running import Server
from benchmarks.workload import Workload, asked, endless_questions

TEMPLATE = Path(__file__).with_name("tools.jinja")
MAX_TOKENS = 256  # more than any call needs
SYSTEM = "You carry out what the customer asks for by calling a tool."


def _tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    """All of its arguments are required, and nothing else is allowed."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def _one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(values)}


FLAG = {"type": "boolean"}
REGION = _one_of("europe-west", "europe-north", "us-east", "asia-south")
ENVIRONMENT = _one_of("production", "staging", "development")

TOOLS = [
    _tool(
        "create_virtual_machine",
        "Start a new virtual machine.",
        region=REGION,
        environment=ENVIRONMENT,
        machine_type=_one_of("standard-small", "standard-large", "memory-optimized"),
        operating_system=_one_of("debian-12", "ubuntu-24.04", "windows-2025"),
        nightly_backup=FLAG,
    ),
    _tool(
        "resize_database",
        "Change the size of a managed database.",
        region=REGION,
        environment=ENVIRONMENT,
        database_engine=_one_of("postgresql", "mysql", "mongodb"),
        storage_class=_one_of("general-purpose", "provisioned-throughput"),
        apply_immediately=FLAG,
    ),
    _tool(
        "configure_autoscaling",
        "Set how a service grows and shrinks with its load.",
        region=REGION,
        environment=ENVIRONMENT,
        scaling_metric=_one_of("cpu-utilization", "memory-utilization", "request-concurrency"),
        scaling_speed=_one_of("conservative", "balanced", "aggressive"),
        notify_on_change=FLAG,
    ),
    _tool(
        "open_support_ticket",
        "Hand a problem over to the support team.",
        region=REGION,
        environment=ENVIRONMENT,
        problem_category=_one_of("performance", "availability", "billing", "security"),
        customer_impact=_one_of("service-unavailable", "service-degraded", "question-only"),
        attach_diagnostics=FLAG,
    ),
]
CHOICE = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The schema of a whole call."""
    properties = {"name": {"const": name}, "arguments": arguments}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "call", "schema": {"anyOf": [_call(*each) for each in SCHEMAS.items()]}},
}


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """A closed loop of forced calls, of tools or as structured output."""

    clients: int
    num_requests: int
    sampling: str = "greedy"
    by_schema: bool = False

    @property
    def name(self) -> str:
        return f"{self.clients} clients, {'calls by schema' if self.by_schema else 'tool calls'}"

    async def warm_up(self, server: Server) -> None:
        """With tools as well: schemas are compiled once."""
        await warm_up(server, Workload(self.sampling), self.clients)
        await self._ask(server, 1, "Warm-up")

    async def run(self, server: Server) -> list[Reply]:
        return await self._ask(server, self.num_requests, "Question")

    async def _ask(self, server: Server, num_requests: int, label: str) -> list[Reply]:
        workload = Workload(self.sampling, MAX_TOKENS)
        how = {"response_format": FORMAT} if self.by_schema else CHOICE
        system = f"{SYSTEM}\nTools: {json.dumps(TOOLS)}" if self.by_schema else SYSTEM
        requests = [
            workload.request(server.model_id, asked(question, system), **how)
            for question in islice(endless_questions(label), num_requests)
        ]
        recordings = await closed_loop(server.port, requests, self.clients)
        return [judged(decode(recording), self.by_schema) for recording in recordings]


def judged(reply: Reply, by_schema: bool = False) -> Reply:
    """An error if there is not just one call, or not of a tool that there is, or with wrong arguments."""
    if reply.error:
        return reply
    try:
        if by_schema:
            call = json.loads(reply.text)
            name, arguments = call["name"], call["arguments"]
        else:
            [(name, text)] = reply.calls
            arguments = json.loads(text)
        jsonschema.validate(arguments, SCHEMAS[name])
    except (ValueError, LookupError, TypeError, jsonschema.ValidationError) as error:
        return replace(reply, error=f"not a valid call: {error}")
    return reply
