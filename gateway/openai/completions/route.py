"""POST /v1/completions, OpenAI's legacy text completions."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.answers.respond import Asked, respond
from gateway.deps import ExchangeDep
from gateway.document import whole_or_stream
from gateway.json_body import JSONRoute
from gateway.openai.completions.reply import TextCompletion, TextEncoder
from gateway.openai.completions.request import TextCompletionRequest, completion_request
from gateway.openai.sampling import ignored

router = APIRouter(tags=["completions"], route_class=JSONRoute)


@router.post("/completions", responses=whole_or_stream(TextCompletion, TextCompletion))
async def create_completion(body: TextCompletionRequest, exchange: ExchangeDep) -> Response:
    """Text continued as it stands, without a chat template."""
    await exchange.gateway.model(body.model)
    wanted = completion_request(body, exchange.id)
    num_choices = len(wanted.prompts) * wanted.n
    encoder = TextEncoder(body.model, num_choices, body.include_usage)
    return await respond(exchange, Asked(wanted, num_choices, tuple(ignored(body))), encoder)
