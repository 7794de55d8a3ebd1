"""POST /generate, the route of the first deployment, kept for its callers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from typing_extensions import TypedDict

from gateway.answers.respond import Asked, collect
from gateway.deps import ExchangeDep
from gateway.json_body import JSONRoute, StrictBody
from worker.protocol import ChatRequest, ContextLengthExceeded, SamplingParams

router = APIRouter(tags=["legacy"], route_class=JSONRoute)

# The first deployment called create_chat_completion with the library's own defaults, and without a limit: but
# a small model sometimes goes in circles, and nobody can ask this route for less.
SAMPLING = SamplingParams(temperature=0.2, top_p=0.95, top_k=40, min_p=0.05)


class GenerateRequest(StrictBody):
    """The first deployment's own shape."""

    message: Annotated[str, Field(min_length=1)]


class GenerateResponse(TypedDict):
    response: str


@router.post("/generate")
async def generate(body: GenerateRequest, exchange: ExchangeDep) -> GenerateResponse:
    """One message in, one answer out, under the server's own system prompt."""
    gateway = exchange.gateway
    model = (await gateway.first_chat_model()).id
    messages = [{"role": "user", "content": body.message}]
    sampling = replace(SAMPLING, max_tokens=gateway.settings.generate_max_tokens)
    wanted = ChatRequest(exchange.id, model, messages, sampling, stream=False)
    try:
        answer = await collect(exchange, Asked(wanted))
    except ContextLengthExceeded as error:
        raise error.of("message") from None
    return {"response": "".join(answer.choices[0].text)}
