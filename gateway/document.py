"""The OpenAPI document: what comes in, what goes out, how streams look, and every error."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every failure, whatever its status."""

    error: ErrorDetail


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class CompletionTokensDetails(BaseModel):
    reasoning_tokens: int


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class FunctionResult(BaseModel):
    name: str
    arguments: str


class ToolCallResult(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionResult


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprobs(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    content: list[TokenLogprobs]
    refusal: None


FinishReasons = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None
    annotations: list[dict[str, Any]]
    reasoning_content: str = ""
    tool_calls: list[ToolCallResult] = []
    function_call: FunctionResult | None = None


class AnswerChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReasons


class _Reply(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(_Reply):
    object: Literal["chat.completion"]
    choices: list[AnswerChoice]
    usage: CompletionUsage


class FunctionDelta(BaseModel):
    name: str = ""
    arguments: str


class ToolCallChunk(BaseModel):
    index: int
    id: str = ""
    type: Literal["function"] = "function"
    function: FunctionDelta


class Delta(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    reasoning_content: str = ""
    tool_calls: list[ToolCallChunk] = []
    function_call: FunctionDelta | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishReasons | None


class ChatCompletionChunk(_Reply):
    """The data of one server-sent event; the last event's data is `[DONE]`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: CompletionUsage | None = None


class LegacyLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class TextCompletion(_Reply):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: CompletionUsage | None = None


class ModelBody(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelBody]


_ERRORS = {
    400: "The request cannot be answered as it stands; `param` names what to change.",
    401: "The API key is missing or wrong.",
    404: "There is no such model or route.",
    405: "The route has other methods.",
    413: "The body is larger than the server's limit.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "The server failed; its log has the details under the request's id.",
    503: "The worker cannot answer now.",
}

# For every route: FastAPI's own 422 never happens, because the envelope handler answers 400.
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": description} for status, description in _ERRORS.items()
}


def either_whole_or_stream(whole: type[BaseModel], chunk: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """The 200 of a route that answers in one body, or in events whose data `chunk` describes."""
    data = {"$ref": f"#/components/schemas/{chunk.__name__}"}
    # `itemSchema` is OpenAPI 3.2's word for what each event is.
    chunk_data = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    event = {"anyOf": [{"const": "[DONE]"}, chunk_data]}
    stream = {"itemSchema": {"type": "object", "properties": {"data": event}, "required": ["data"]}}
    return {
        200: {
            "model": whole,
            "description": "One JSON body, or with `stream` server-sent events that end with `[DONE]`.",
            "content": {"text/event-stream": stream},
            "headers": {
                "x-ignored-parameters": {
                    "description": "The parameters that had no effect.",
                    "schema": {"type": "string"},
                }
            },
        }
    }


def install(app: FastAPI, *extra_models: type[BaseModel]) -> None:
    """Describe what is really answered; `extra_models` are those that only streams use."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            for model in extra_models:
                schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
                schemas.update(schema.pop("$defs", {}))
                schemas[model.__name__] = schema
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}, {}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
