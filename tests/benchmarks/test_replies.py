"""Bytes off the socket to replies: a lost event or a wrong time would make every figure a lie."""

from __future__ import annotations

import pytest

from benchmarks.client import Recording, Stamped
from benchmarks.replies import dechunk, decode, events
from tests.benchmarks.fake_server import ANSWER, HEAD, chunked, delta, event, tool_call


def stamped(data: bytes, size: int) -> list[Stamped]:
    """`data` as it would arrive in pieces of `size` bytes, one second apart."""
    return [(float(i), data[start : start + size]) for i, start in enumerate(range(0, len(data), size))]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_an_answer_decodes_the_same_however_the_network_cuts_it(size: int) -> None:
    reply = decode(Recording(sent=0.0, pieces=stamped(HEAD + chunked(*ANSWER), size), closed=9.0))
    assert (len(reply.content_times), reply.tokens, reply.error) == (2, 7, None)
    assert (reply.prompt_tokens, reply.cached_tokens, reply.text) == (100, 60, "Hello")


def test_an_event_is_stamped_with_the_arrival_of_its_last_byte() -> None:
    pieces = [(1.0, b"data: fir"), (2.0, b"st\n\ndata: second\n"), (3.0, b"\ndata: third\n\n")]
    assert list(events(pieces)) == [(2.0, b"first"), (2.0, b"second"), (3.0, b"third")]


def test_comments_between_events_are_not_events() -> None:
    assert list(events([(1.0, b": keep-alive\n\ndata: x\n\n")])) == [(1.0, b"x")]


def test_a_chunk_with_an_extension_and_a_line_end_in_its_data_survives() -> None:
    assert b"".join(data for _, data in dechunk([(0.0, b"4;name=1\r\na\r\nb\r\n0\r\n\r\n")])) == b"a\r\nb"


def test_without_usage_every_delta_with_text_counts_as_a_token() -> None:
    without_usage = ANSWER[:4]
    assert decode(Recording(0.0, [(0.0, HEAD + chunked(*without_usage))])).tokens == 2


def test_a_call_of_a_tool_is_put_together_and_its_pieces_are_timed() -> None:
    answer = HEAD + chunked(*tool_call("add", '{"a": 1,', '"b": 2}'))
    reply = decode(Recording(0.0, stamped(answer, 10_000)))
    assert reply.calls == (("add", '{"a": 1,"b": 2}'),)
    assert (len(reply.content_times), reply.error) == (3, None)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\n{}",
        HEAD + chunked(*ANSWER[:3]),  # cut off before its finish_reason
        HEAD + chunked(delta("Hel"), event(error={"message": "out of memory"})),
    ],
)
def test_a_broken_answer_is_an_error(answer: bytes) -> None:
    assert decode(Recording(0.0, [(1.0, answer)], closed=1.0)).error


def test_an_answer_may_be_empty_and_is_still_whole() -> None:
    reply = decode(Recording(0.0, [(1.0, HEAD + chunked(delta(None, "stop")))], closed=1.0))
    assert (reply.error, reply.content_times) == (None, ())
