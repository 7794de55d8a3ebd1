"""Chat completions as they go out: `chat.completion`, and `chat.completion.chunk` in a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NotRequired

import orjson
from typing_extensions import TypedDict

from gateway.answers.whole import Call, Choice, WholeAnswer
from gateway.openai.encoder import CompletionEncoder, CompletionUsage, Head, completion_usage, head
from gateway.openai.logprobs import Logprobs, chat_logprobs
from worker.protocol import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

# The last is what the deprecated `functions` get instead of `tool_calls`.
FinishReasons = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class FunctionResult(TypedDict):
    name: str
    arguments: str


class ToolCallResult(TypedDict):
    id: str
    type: Literal["function"]
    function: FunctionResult


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[dict[str, Any]]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCallResult]]
    function_call: NotRequired[FunctionResult]


class AnswerChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReasons


class ChatCompletion(Head):
    object: Literal["chat.completion"]
    choices: list[AnswerChoice]
    usage: CompletionUsage


class FunctionDelta(TypedDict):
    name: NotRequired[str]
    arguments: str


class ToolCallChunk(TypedDict):
    """The first of a call introduces it, the later ones only add to its arguments."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionDelta


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str
    reasoning_content: str
    tool_calls: list[ToolCallChunk]
    function_call: FunctionDelta


class ChunkChoice(TypedDict):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishReasons | None


class ChatCompletionChunk(Head):
    """The data of one server-sent event; the last event's data is `[DONE]`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: NotRequired[CompletionUsage | None]


class ChatEncoder(CompletionEncoder):
    """`functions`: tools were offered, and calls are told, by their deprecated name."""

    def __init__(self, model: str, num_choices: int, include_usage: bool, functions: bool = False) -> None:
        self._head, self._num_choices, self._functions = head("chatcmpl", model), num_choices, functions
        frame: ChatCompletionChunk = {
            **self._head,
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": None,
        }
        super().__init__(frame, include_usage)

    def opening(self) -> bytes:
        opening: Delta = {"role": "assistant", "content": ""}
        return b"".join([self._delta(index, opening) for index in range(self._num_choices)])

    def event(self, event: Event) -> bytes:
        match event:
            case TextDelta():
                return self._delta(event.index, {"content": event.text}, event.logprobs)
            case ReasoningDelta():
                return self._delta(event.index, {"reasoning_content": event.text})
            case ToolCallDelta():
                return self._delta(event.index, self._call(event))
            case Finished():
                return self._delta(event.index, {}, reason=self._reason(event.reason))
            case Usage():
                return self.usage(event)
            case _:
                return b""

    def whole(self, answer: WholeAnswer) -> bytes:
        choices: list[AnswerChoice] = [
            {
                "index": index,
                "message": self._message(choice),
                "logprobs": chat_logprobs(choice.logprobs),
                "finish_reason": self._reason(choice.finish_reason),
            }
            for index, choice in enumerate(answer.choices)
        ]
        body: ChatCompletion = {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": completion_usage(answer.usage),
        }
        return orjson.dumps(body)

    def _delta(
        self,
        index: int,
        delta: Delta,
        logprobs: Sequence[TokenLogprob] = (),
        reason: FinishReasons | None = None,
    ) -> bytes:
        choice: ChunkChoice = {
            "index": index,
            "delta": delta,
            "logprobs": chat_logprobs(logprobs),
            "finish_reason": reason,
        }
        return self.chunk(choice)

    def _reason(self, reason: FinishReason) -> FinishReasons:
        return "function_call" if self._functions and reason == "tool_calls" else reason

    def _call(self, event: ToolCallDelta) -> Delta:
        function: FunctionDelta = (
            {"arguments": event.arguments}
            if event.name is None
            else {"name": event.name, "arguments": event.arguments}
        )
        if self._functions:
            return {"function_call": function}
        if event.id is None:
            return {"tool_calls": [{"index": event.call, "function": function}]}
        return {
            "tool_calls": [{"index": event.call, "id": event.id, "type": "function", "function": function}]
        }

    def _message(self, choice: Choice) -> AnswerMessage:
        text = "".join(choice.text)
        message: AnswerMessage = {
            "role": "assistant",
            "content": None if choice.calls and not text else text,
            "refusal": None,
            "annotations": [],
        }
        if choice.reasoning:
            message["reasoning_content"] = "".join(choice.reasoning)
        if choice.calls and self._functions:
            message["function_call"] = _function(choice.calls[0])
        elif choice.calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": _function(call)} for call in choice.calls
            ]
        return message


def _function(call: Call) -> FunctionResult:
    return {"name": call.name, "arguments": "".join(call.arguments)}
