"""llama-server's best setting for each load: of all sensible slots and KV layouts, the fastest is kept.

Its cache of prompts in memory is on throughout. Where the slots are given (chats: memory is what they share),
it may also spread the same KV over a slot for each user.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks import CACHE
from benchmarks.loads import Load
from benchmarks.peer import Peer, Setup

TUNED = CACHE / "tuned.json"
SLOTS = (1, 4, 8, 16, 32, 48, 64)
MOST_SLOTS = 48  # untuned: with more than that, first tokens come later at 100 clients (LOG.md)


def is_llama_server(peer: Peer) -> bool:
    return peer.name.startswith("llama-server")


def setup_for(peer: Peer, base: Setup, load: Load) -> Setup:
    """What a peer is given for a load: llama-server the best that tuning found here, or a good guess.

    The guess is a slot for each client up to 48 and a KV stream for each slot, the best of those tried at 16,
    32 and 100 clients (LOG.md); or the given slots.
    """
    if not is_llama_server(peer):
        return base
    guess = {"slots": base.slots or min(load.clients, MOST_SLOTS), "kv_unified": False, "kv_tokens": None}
    return replace(base, **_tuned().get(_key(peer, base, load), guess))


def candidates(base: Setup, load: Load) -> Iterator[Setup]:
    """Settings of llama-server that may be its best."""
    if base.slots is None:
        for slots in (slots for slots in SLOTS if slots <= max(load.clients, 1)):
            yield replace(base, slots=slots)
            if slots > 1:
                yield replace(base, slots=slots, kv_unified=True)
        return
    pool = base.slots * base.context
    yield base
    yield replace(base, kv_unified=True)
    if load.clients > base.slots:
        yield replace(base, slots=min(load.clients, 64), kv_unified=True, kv_tokens=pool)


def keep(peer: Peer, base: Setup, load: Load, best: Setup) -> None:
    """Remember it for this peer, model, context and load."""
    setting = {"slots": best.slots, "kv_unified": best.kv_unified, "kv_tokens": best.kv_tokens}
    TUNED.parent.mkdir(parents=True, exist_ok=True)
    TUNED.write_text(json.dumps({**_tuned(), _key(peer, base, load): setting}, indent=1) + "\n")


def _key(peer: Peer, base: Setup, load: Load) -> str:
    slots = f"{base.slots} slots" if base.slots else "any slots"
    return f"{peer.name}, {base.model.name}, {base.threads} threads, {slots} of {base.context}, {load.name}"


def _tuned() -> dict[str, Any]:
    tuned: dict[str, Any] = json.loads(TUNED.read_text()) if TUNED.exists() else {}
    return tuned
