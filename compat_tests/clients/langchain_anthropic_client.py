"""langchain-anthropic: a stream with usage, a required tool, structured output, and an unknown model."""

import json
import sys
from typing import Any

import anthropic
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from pydantic import BaseModel, Field

base_url, model = sys.argv[1:]


class City(BaseModel):
    """A city."""

    city: str = Field(max_length=20)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def chat(name: str = model, max_tokens: int = 80) -> ChatAnthropic:
    url = base_url.removesuffix("/v1")
    return ChatAnthropic(base_url=url, api_key="unused", model=name, max_tokens=max_tokens, max_retries=0)


def main() -> None:
    whole: Any = None
    for chunk in chat(max_tokens=12).stream("Say hello."):
        whole = chunk if whole is None else whole + chunk
    bound = chat().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    called: Any = None
    for part in bound.stream("The weather in Paris?"):
        called = part if called is None else called + part
    structured: Any = chat().with_structured_output(City).invoke("The capital of France?")
    try:
        chat("missing").invoke("x")
        failure = None
    except anthropic.NotFoundError as error:
        failure = type(error).__name__
    print(
        json.dumps(
            {
                "text": whole.text if isinstance(whole.text, str) else whole.text(),
                "reason": whole.response_metadata["stop_reason"],
                "completion_tokens": whole.usage_metadata["output_tokens"],
                "tool": called.tool_calls[0]["name"],
                "arguments": called.tool_calls[0]["args"],
                "structured": structured.model_dump(),
                "failure": failure,
            }
        )
    )


if __name__ == "__main__":
    main()
