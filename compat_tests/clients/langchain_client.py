"""langchain-openai: a stream with usage, a required tool, structured output, and an unknown model."""

import json
import sys
from typing import Any

import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

base_url, model = sys.argv[1:]


class City(BaseModel):
    """A city."""

    city: str = Field(max_length=20)


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


def chat(name: str = model, max_tokens: int = 80) -> ChatOpenAI:
    return ChatOpenAI(base_url=base_url, api_key="unused", model=name, max_tokens=max_tokens, max_retries=0)


def main() -> None:
    chunks = list(chat(max_tokens=12).stream("Say hello.", stream_usage=True))
    whole: Any = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    bound = chat().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    parts = list(bound.stream("The weather in Paris?"))
    called: Any = parts[0]
    for part in parts[1:]:
        called += part
    structured: Any = (
        chat().with_structured_output(City, method="json_schema").invoke("The capital of France?")
    )
    try:
        chat("missing").invoke("x")
        failure = None
    except openai.NotFoundError as error:
        failure = type(error).__name__
    print(
        json.dumps(
            {
                "text": whole.content,
                "reason": whole.response_metadata["finish_reason"],
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
