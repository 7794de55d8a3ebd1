"""What a worker's memory is used for beside the model. Imports nothing of llama.cpp: the gateway asks too."""

from __future__ import annotations

MIB = 1024 * 1024
# More do not raise the throughput, and on two cores a stream of 48 is already no faster than one reads.
MAX_SLOTS = 48
# For the compute buffers, Python and whatever else lives in the worker's process.
RESERVED_MB = 512
# What may be used beside the model goes to slots, but for this share: a conversation without a slot takes as
# much memory as it is long, a slot always its whole context.
CACHE_SHARE = 0.25
CACHE_MB = 512  # where nobody said how much memory there is


def divide_memory(
    model_bytes: int,
    slot_bytes: int,
    memory_mb: int | None,
    num_slots: int | None = None,
    cache_mb: int | None = None,
) -> tuple[int, int]:
    """How many sequences run at a time, and how many MiB keep conversations that have lost their slots.

    `num_slots` and `cache_mb` are what is wanted; slots that were asked for go before a cache that was not.
    """
    if memory_mb is None:
        return num_slots or 8, CACHE_MB if cache_mb is None else cache_mb
    room = max(0, (memory_mb - RESERVED_MB) * MIB - model_bytes)
    cache = room * CACHE_SHARE if cache_mb is None else cache_mb * MIB
    if cache_mb is None and num_slots is not None:
        cache = min(cache, max(0, room - num_slots * slot_bytes))
    fitting = int((room - cache) // slot_bytes)
    return max(1, min(num_slots or MAX_SLOTS, fitting)), int(cache / MIB)
