"""litellm: a stream with usage, a required tool, a prompt that is too long, and an unknown model."""

import json
import sys
from typing import Any

import litellm

base_url, model = sys.argv[1:]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
        },
    },
}


def ask(text: str, name: str = model, **options: Any) -> Any:
    return litellm.completion(
        model=f"openai/{name}",
        api_base=base_url,
        api_key="unused",
        messages=[{"role": "user", "content": text}],
        num_retries=0,
        **options,
    )


def failure(text: str, name: str = model) -> str | None:
    try:
        ask(text, name)
    except litellm.exceptions.APIError as error:
        return type(error).__name__
    except Exception as error:
        return type(error).__name__
    return None


def main() -> None:
    chunks = list(ask("Say hello.", max_tokens=12, stream=True, stream_options={"include_usage": True}))
    parts = list(
        ask(
            "The weather in Paris?",
            max_tokens=80,
            tools=[TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
            stream=True,
        )
    )
    call = litellm.stream_chunk_builder(parts).choices[0].message.tool_calls[0].function
    whole = litellm.stream_chunk_builder(chunks)
    print(
        json.dumps(
            {
                "text": whole.choices[0].message.content,
                "reason": whole.choices[0].finish_reason,
                "completion_tokens": whole.usage.completion_tokens,
                "tool": call.name,
                "arguments": json.loads(call.arguments),
                "overflow": failure("word " * 5000),
                "failure": failure("x", "missing"),
            }
        )
    )


if __name__ == "__main__":
    main()
