"""Who asks: what the log, the metrics, the limits and the engine's fair share know a client by."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Scope


@dataclass(frozen=True, slots=True)
class Allowance:
    """Requests and tokens a minute, and requests at once; 0 is no limit, None is what all have."""

    requests: int | None = None
    tokens: int | None = None
    concurrent: int | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """The name of a key, never the key; keys that share a name are one caller."""

    name: str
    allowance: Allowance = Allowance()


ANYBODY = Caller("anonymous")  # where no key is asked for


def caller_of(scope: Scope) -> Caller | None:
    """Who sent this request; None for whoever showed no key, on a route that needs none."""
    caller: Caller | None = scope.get("state", {}).get("caller")
    return caller


def set_caller(scope: Scope, caller: Caller | None) -> None:
    scope.setdefault("state", {})["caller"] = caller
