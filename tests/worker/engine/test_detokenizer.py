"""Text that streams: whole characters, no half stop strings, however tokens cut them."""

from __future__ import annotations

import pytest

from worker.engine.detokenizer import Detokenizer
from worker.protocol import TokenLogprob


def stream(text: bytes, cut: int, stop: tuple[str, ...] = ()) -> list[str]:
    """Push `text` in pieces of `cut` bytes; what was shown each time."""
    detokenizer = Detokenizer(stop)
    shown = []
    for start in range(0, len(text), cut):
        shown.append(detokenizer.push(text[start : start + cut])[0])
        if detokenizer.stopped:
            break
    return [*shown, detokenizer.flush()[0]]


@pytest.mark.parametrize("cut", range(1, 12))
def test_characters_are_never_split(cut: int) -> None:
    text = "naïve café 🌥️ 日本語 ok"
    shown = stream(text.encode(), cut)
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown)


def test_invalid_bytes_become_replacement_characters() -> None:
    assert "".join(stream(b"a\xff\xe6\x97b", 1)) == "a\ufffd\ufffdb"


def test_bytes_without_an_end_become_one_replacement_character() -> None:
    assert "".join(stream("sun ☀".encode()[:-1], 2)) == "sun \ufffd"


@pytest.mark.parametrize("cut", range(1, 20))
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (("END",), "one EN two "),
        (("two", "one EN"), ""),
        (("\n\n", "two"), "one EN "),
        (("nothing",), "one EN two END three"),
        (("END three", "ENDx"), "one EN two "),
        (("☀",), "one EN two END three"),
    ],
)
def test_stop_strings_end_the_text_wherever_tokens_cut_them(
    cut: int, stop: tuple[str, ...], expected: str
) -> None:
    shown = stream(b"one EN two END three", cut, stop)
    assert "".join(shown) == expected
    so_far = ""
    for text in shown:
        so_far += text
        assert expected.startswith(so_far), "nothing may be shown that must be taken back"


def test_the_earliest_stop_in_the_text_wins_over_the_first_listed() -> None:
    assert "".join(stream(b"a cloud, a sky", 14, ("sky", "cloud"))) == "a "


def test_what_might_begin_a_stop_string_is_shown_when_it_does_not() -> None:
    assert stream(b"aENb", 1, ("END",)) == ["a", "", "", "ENb", ""]


def test_text_without_stop_strings_is_shown_at_once() -> None:
    assert stream(b"abc", 1) == ["a", "b", "c", ""]


def test_log_probabilities_come_with_their_text() -> None:
    detokenizer = Detokenizer(("END",))
    logprobs = [TokenLogprob(str(i), -1.0, b"") for i in range(6)]
    sun = "☀".encode()
    assert detokenizer.push(b"a", logprobs[0]) == ("a", (logprobs[0],))
    assert detokenizer.push(sun[:2], logprobs[1]) == ("", ())
    assert detokenizer.push(sun[2:], logprobs[2]) == ("☀", (logprobs[1], logprobs[2]))
    assert detokenizer.push(b"E", logprobs[3]) == ("", ())
    assert detokenizer.push(b"Nx", logprobs[4]) == ("ENx", (logprobs[3], logprobs[4]))
    assert detokenizer.push(b"yEND", logprobs[5]) == ("y", (logprobs[5],))


def test_tokens_of_the_stop_string_have_no_log_probabilities() -> None:
    detokenizer = Detokenizer(("END",))
    entry = TokenLogprob("x", -1.0, b"")
    assert detokenizer.push(b"a", entry) == ("a", (entry,))
    assert detokenizer.push(b"EN", entry) == ("", ())
    assert detokenizer.push(b"D", entry) == ("", ())
    assert detokenizer.stopped
    assert detokenizer.flush() == ("", ())
