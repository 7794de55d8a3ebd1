"""instructor: its TOOLS mode (a named tool) and its JSON schema mode."""

import json
import sys

import instructor
import openai
from pydantic import BaseModel, Field

base_url, model = sys.argv[1:]


class City(BaseModel):
    city: str = Field(max_length=20)


def ask(mode: instructor.Mode) -> City:
    client = instructor.from_openai(openai.OpenAI(base_url=base_url, api_key="unused"), mode=mode)
    messages = [{"role": "user", "content": "The capital of France?"}]
    return client.chat.completions.create(
        model=model, messages=messages, response_model=City, max_tokens=80, max_retries=0
    )


if __name__ == "__main__":
    answers = [ask(mode).model_dump() for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA)]
    print(json.dumps({"arguments": answers[0], "structured": answers[1]}))
