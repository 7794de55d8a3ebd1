"""Loaded by schemathesis: requests name the served model, and every second one is odd in one field only.

Bodies that are odd everywhere are refused for the first thing wrong with them, and try nothing behind that.
"""

from __future__ import annotations

import os
import zlib
from typing import Any

import schemathesis  # type: ignore[import-not-found]

MODEL = os.environ["SERVED_MODEL"]
MESSAGES = [{"role": "user", "content": "Hi"}]
# Short answers: what is odd about a request shows in its first tokens.
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 4},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 16},
    "/generate": {"message": "Hi"},
}


@schemathesis.hook  # type: ignore[untyped-decorator]
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    choice = zlib.crc32(repr(body).encode())  # the same in every run of one seed
    valid = VALID.get(case.operation.path)
    if valid and body and choice % 2:
        name = sorted(body, key=str)[choice // 2 % len(body)]
        case.body = {"model": MODEL, **valid, name: body[name]}
