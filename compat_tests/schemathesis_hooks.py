"""Loaded by schemathesis: requests name the served model, so that they get past the first check."""

from __future__ import annotations

import os
from typing import Any

import schemathesis  # type: ignore[import-not-found]


@schemathesis.hook  # type: ignore[untyped-decorator]
def map_body(context: Any, body: Any) -> Any:
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        body["model"] = os.environ["SERVED_MODEL"]
    return body
