"""Responses as they go out: the object, and the events that tell how it comes about."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from gateway.answers.blocks import Block, BlockEncoder, server_sent
from gateway.answers.whole import WholeAnswer
from gateway.errors import APIError, ErrorDetail, invalid
from gateway.json_body import StrictBody
from gateway.openai.logprobs import TokenLogprobs, token_logprobs
from gateway.openai.responses.items import qualified
from gateway.openai.responses.request import NamespaceTool, ResponseRequest
from worker.protocol import TokenLogprob, Usage

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
RESPONSE_ID_LENGTH = 24  # behind `resp_`
PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}


class TextOutput(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprobs]


class ThoughtOutput(TypedDict):
    type: Literal["reasoning_text", "summary_text"]
    text: str


OutputPart = TextOutput | ThoughtOutput


class MessageOutput(TypedDict):
    type: Literal["message"]
    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[TextOutput]


class ReasoningOutput(TypedDict):
    """The thinking is what stands in `content`, or where a summary was asked for, in `summary`."""

    type: Literal["reasoning"]
    id: str
    status: ItemStatus
    summary: list[ThoughtOutput]
    content: NotRequired[list[ThoughtOutput]]


class FunctionCallOutput(TypedDict):
    type: Literal["function_call"]
    id: str
    status: ItemStatus
    call_id: str
    name: str
    namespace: NotRequired[str]
    arguments: str


OutputItem = MessageOutput | ReasoningOutput | FunctionCallOutput


class InputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(TypedDict):
    reasoning_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(TypedDict):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str


class IncompleteDetails(TypedDict):
    reason: Literal["max_output_tokens", "content_filter"]


class ResponseObject(TypedDict):
    """Times are in seconds since 1970. A `temperature` or `top_p` of null is what the model recommends."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: Literal[False]
    error: ResponseError | None
    frequency_penalty: float
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    presence_penalty: float
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None


class ResponseEvent(TypedDict):
    """The data of one server-sent event, which has its `type` as a name: `response.created`,
    `response.output_text.delta` and so on. `response.completed`, `response.incomplete` or
    `response.failed` is the last but for an `error`."""

    type: str
    sequence_number: int
    response: NotRequired[ResponseObject]
    output_index: NotRequired[int]
    content_index: NotRequired[int]
    summary_index: NotRequired[int]
    item_id: NotRequired[str]
    item: NotRequired[OutputItem]
    part: NotRequired[OutputPart]
    delta: NotRequired[str]
    text: NotRequired[str]
    arguments: NotRequired[str]
    logprobs: NotRequired[list[TokenLogprobs]]
    code: NotRequired[str | None]
    message: NotRequired[str]
    param: NotRequired[str | None]
    error: NotRequired[ErrorDetail]


class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ItemList(TypedDict):
    """A page of the items that a response was made from: messages, calls, their results, and thinking."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


def item_list(
    items: Sequence[dict[str, Any]], limit: int, order: Literal["asc", "desc"], after: str | None
) -> ItemList:
    """The page of `items`, which come the earliest first, that begins behind the item `after`."""
    ordered = list(items if order == "asc" else reversed(items))
    if after is not None:
        place = next((i for i, item in enumerate(ordered) if item["id"] == after), None)
        if place is None:
            raise invalid(f"There is no item '{after}' in the input of this response.", "after")
        ordered = ordered[place + 1 :]
    page = ordered[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(ordered) > limit,
    }


def new_response(body: ResponseRequest, *, store: bool) -> ResponseObject:
    """What is known of a response before the model has written anything."""
    reasoning = body.reasoning
    text = body.text.known_fields() if body.text else {}
    choice = body.tool_choice
    return {
        "id": f"resp_{secrets.token_hex(RESPONSE_ID_LENGTH // 2)}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": (reasoning.effort if reasoning else None) or None,
            "summary": (reasoning.summary or reasoning.generate_summary) if reasoning else None,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": store,
        "temperature": body.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": choice.known_fields() if isinstance(choice, StrictBody) else choice or "auto",
        "tools": [
            tool.known_fields()
            if isinstance(tool, NamespaceTool)
            else {"description": None, "parameters": None, "strict": False, **tool.known_fields()}
            for tool in body.tools or ()
        ],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def response_usage(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


class ResponseEncoder(BlockEncoder):
    """Every block is an item, and every event has its number. `summarized`: thinking is told as a summary.

    `keep` is called with the finished response.
    """

    def __init__(
        self,
        response: ResponseObject,
        *,
        summarized: bool,
        keep: Callable[[ResponseObject], Awaitable[None]] | None,
    ) -> None:
        super().__init__()
        self.response, self._summarized, self._keep = response, summarized, keep
        self._num_events = 0
        self._in_namespaces = {  # namespace and name by what the model calls them
            qualified(function["name"], tool["name"]): (tool["name"], function["name"])
            for tool in response["tools"]
            if tool["type"] == "namespace"
            for function in tool["tools"]
        }

    def whole(self, answer: WholeAnswer) -> bytes:
        self.read(answer)
        self._finish()
        return orjson.dumps(self.response)

    def opening(self) -> bytes:
        return self._lifecycle("created") + self._lifecycle("in_progress")

    def begun(self, block: Block) -> bytes:
        item = self._item(block, "in_progress")
        added = self._event("response.output_item.added", output_index=block.index, item=_empty(item))
        if block.kind == "call":
            return added
        return added + self._part("added", block)

    def grown(self, block: Block, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        more = {"logprobs": token_logprobs(logprobs)} if block.kind == "text" else {}
        return self._text("delta", block, delta=text, **more)

    def ended(self, block: Block) -> bytes:
        match block.kind:
            case "call":
                done = self._text("done", block, arguments=block.text)
            case "text":
                done = self._text("done", block, text=block.text, logprobs=token_logprobs(block.logprobs))
            case _:
                done = self._text("done", block, text=block.text)
        if block.kind != "call":
            done += self._part("done", block)
        item = self._item(block, "incomplete" if self.is_cut(block) else "completed")
        self.response["output"].append(item)
        return done + self._event("response.output_item.done", output_index=block.index, item=item)

    def end(self) -> bytes:
        self._finish()
        return self._lifecycle(self.response["status"])

    async def finished(self) -> None:
        if self._keep is not None:
            await self._keep(self.response)

    def error(self, error: APIError) -> bytes:
        """As a failed response, and as the event at which OpenAI's clients raise."""
        self.response["status"], self.response["error"] = "failed", failure(error)
        detail = error.detail
        flat = {name: detail[name] for name in ("message", "code", "param")}
        return self._lifecycle("failed") + self._event("error", **flat, error=detail)

    def _finish(self) -> None:
        response = self.response
        response["usage"] = response_usage(self.usage)
        if self.reason in ("length", "content_filter"):
            response["status"] = "incomplete"
            cut = self.reason == "length"
            response["incomplete_details"] = {"reason": "max_output_tokens" if cut else "content_filter"}
        else:
            response["status"], response["completed_at"] = "completed", int(time.time())

    def _item(self, block: Block, status: ItemStatus) -> OutputItem:
        item_id = self._item_id(block)
        match block.kind:
            case "call":
                call: FunctionCallOutput = {
                    "type": "function_call",
                    "id": item_id,
                    "status": status,
                    "call_id": block.call_id,
                    "name": block.name,
                    "arguments": block.text,
                }
                if block.name in self._in_namespaces:
                    call["namespace"], call["name"] = self._in_namespaces[block.name]
                return call
            case "text":
                content = [self._text_output(block)]
                return {
                    "type": "message",
                    "id": item_id,
                    "status": status,
                    "role": "assistant",
                    "content": content,
                }
        thought = [self._thought(block)]
        head: ReasoningOutput = {"type": "reasoning", "id": item_id, "status": status, "summary": []}
        return {**head, "summary": thought} if self._summarized else {**head, "content": thought}

    def _item_id(self, block: Block) -> str:
        """Has the response's own id in it, by which a reference to the item finds the response."""
        return f"{PREFIXES[block.kind]}_{self.response['id'].removeprefix('resp_')}{block.index:04d}"

    def _text_output(self, block: Block) -> TextOutput:
        return {
            "type": "output_text",
            "text": block.text,
            "annotations": [],
            "logprobs": token_logprobs(block.logprobs),
        }

    def _thought(self, block: Block) -> ThoughtOutput:
        return {"type": "summary_text" if self._summarized else "reasoning_text", "text": block.text}

    def _part(self, what: Literal["added", "done"], block: Block) -> bytes:
        part: OutputPart = self._text_output(block) if block.kind == "text" else self._thought(block)
        summary = block.kind == "reasoning" and self._summarized
        name = "reasoning_summary_part" if summary else "content_part"
        return self._event(f"response.{name}.{what}", **self._place(block), part=part)

    def _text(self, what: Literal["delta", "done"], block: Block, **fields: Any) -> bytes:
        thought = "reasoning_summary_text" if self._summarized else "reasoning_text"
        names = {"call": "function_call_arguments", "text": "output_text", "reasoning": thought}
        return self._event(f"response.{names[block.kind]}.{what}", **self._place(block), **fields)

    def _place(self, block: Block) -> dict[str, Any]:
        place = {"item_id": self._item_id(block), "output_index": block.index}
        if block.kind == "call":
            return place
        summary = block.kind == "reasoning" and self._summarized
        return {**place, "summary_index" if summary else "content_index": 0}

    def _lifecycle(self, status: str) -> bytes:
        return self._event(f"response.{status}", response=self.response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return server_sent(kind, orjson.dumps(data))


def _empty(item: OutputItem) -> Mapping[str, Any]:
    """As it is added: its parts follow."""
    return {**item, **{name: [] for name in ("content", "summary") if name in item}}


def failure(error: APIError) -> ResponseError:
    codes: dict[int, Literal["rate_limit_exceeded", "invalid_prompt"]] = {
        429: "rate_limit_exceeded",
        400: "invalid_prompt",
    }
    return {"code": codes.get(error.status, "server_error"), "message": error.detail["message"]}
