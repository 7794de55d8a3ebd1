"""The OpenAPI document, where FastAPI cannot know: what fails and how, and what a stream is made of."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from gateway.errors import ErrorResponse

ERRORS = {
    400: "The request cannot be answered as it stands; `param` names what to change.",
    401: "The API key is missing or wrong.",
    404: "There is no such model or route.",
    405: "The route has other methods.",
    413: "The body is larger than the server's limit.",
    429: "Too many requests; `Retry-After` says when to come back.",
    500: "The server failed; its log has the details under the request's id.",
    503: "The worker cannot answer now.",
}

Responses = dict[int | str, dict[str, Any]]

ERROR_RESPONSES: Responses = {
    status: {"model": ErrorResponse, "description": description} for status, description in ERRORS.items()
}


_IGNORED = {
    "x-ignored-parameters": {
        "description": "The parameters that had no effect.",
        "schema": {"type": "string"},
    }
}


def whole(body: type) -> Responses:
    """The 200 of a route that answers in one body, which it writes itself."""
    return {200: {"model": body, "description": "One JSON body.", "headers": _IGNORED}}


def whole_or_stream(whole: type, chunk: type, *, done: bool = True) -> Responses:
    """The 200 of a route that answers in one body, or in events whose data `chunk` describes.

    `done`: the last event's data is `[DONE]`. Where it is not, events have names.
    """
    schema = TypeAdapter(chunk).json_schema(ref_template="#/components/schemas/{model}")
    definitions = {**schema.pop("$defs", {}), chunk.__name__: schema}
    data = {"$ref": f"#/components/schemas/{chunk.__name__}"}
    # `itemSchema` is OpenAPI 3.2's word for what each event is.
    chunk_data = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
    event = {"anyOf": [{"const": "[DONE]"}, chunk_data]} if done else chunk_data
    properties = {"data": event} if done else {"event": {"type": "string"}, "data": event}
    item = {"type": "object", "properties": properties, "required": [*properties], "$defs": definitions}
    end = " that end with `[DONE]`" if done else ""
    return {
        200: {
            "model": whole,
            "description": f"One JSON body, or with `stream` server-sent events{end}.",
            "content": {"text/event-stream": {"itemSchema": item}},
            "headers": _IGNORED,
        }
    }


def _add(schemas: dict[str, Any], more: dict[str, Any]) -> None:
    """Raises ValueError where two shapes have one name, of which the document would tell only one."""
    for name, schema in more.items():
        if schemas.setdefault(name, schema) != schema:
            raise ValueError(f"two different shapes are called {name}")


def install(app: FastAPI) -> None:
    """Serve a document that describes what is really answered."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            schemas = document["components"]["schemas"]
            operations = (operation for path in document["paths"].values() for operation in path.values())
            for operation in operations:
                # FastAPI's own 422 never happens, because the envelope handler answers 400.
                operation["responses"].pop("422", None)
                for content in operation["responses"]["200"]["content"].values():
                    _add(schemas, content.get("itemSchema", {}).pop("$defs", {}))
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"key": []}, {}]
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
