"""pydantic-ai: a stream, a structured answer through a tool, and an unknown model."""

import json
import sys

from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base_url, name = sys.argv[1:]
provider = OpenAIProvider(base_url=base_url, api_key="unused")
model = OpenAIChatModel(name, provider=provider)


class City(BaseModel):
    city: str = Field(max_length=20)


async def main() -> None:
    async with Agent(model).run_stream("Say hello.", model_settings={"max_tokens": 12}) as stream:
        text = "".join([part async for part in stream.stream_text(delta=True)])
        tokens = stream.usage
    usage = tokens() if callable(tokens) else tokens
    settings = {"max_tokens": 80, "parallel_tool_calls": False}
    answer = await Agent(model, output_type=City).run("The capital of France?", model_settings=settings)
    try:
        await Agent(OpenAIChatModel("missing", provider=provider)).run("x")
        failure = None
    except ModelHTTPError as error:
        failure = error.status_code
    print(
        json.dumps(
            {
                "text": text,
                "completion_tokens": usage.output_tokens,
                "arguments": answer.output.model_dump(),
                "failure": failure,
            }
        )
    )


if __name__ == "__main__":
    import asyncio

    asyncio.run(main())
