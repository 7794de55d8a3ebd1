"""The parts of a message's content, as chats and responses have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from gateway.errors import unsupported
from gateway.json_body import PlainOr, StrictBody


class TextPart(StrictBody):
    """Chats say `text`, responses the rest."""

    type: Literal["text", "input_text", "output_text", "summary_text", "reasoning_text"]
    text: str


class RefusalPart(StrictBody):
    type: Literal["refusal"]
    refusal: str


class MediaPart(StrictBody):
    """Images, audio and files: understood, and refused by name where the model takes text only."""

    type: Literal["image_url", "input_image", "input_audio", "file", "input_file", "computer_screenshot"]


Part = Annotated[TextPart | RefusalPart | MediaPart, Field(discriminator="type")]
Content = PlainOr[str, Annotated[list[Part], Field(min_length=1)]]
MaybeEmpty = PlainOr[str, list[Part]]


def text_of(content: str | Sequence[Part] | None, where: str) -> str:
    """All of it as one text. Raises a 400 that names the part, below `where`, which is none."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_text(part, f"{where}[{i}]") for i, part in enumerate(content))


def _text(part: Part, where: str) -> str:
    match part:
        case TextPart():
            return part.text
        case RefusalPart():
            return part.refusal
        case _:
            raise unsupported(where, f"this model takes text only, not '{part.type}'.")
