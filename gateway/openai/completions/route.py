"""POST /v1/completions, OpenAI's legacy text completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.answers.respond import Asked, answer
from gateway.deps import GatewayDep, RequestId
from gateway.document import TextCompletion, either_whole_or_stream
from gateway.json_body import JSONRoute
from gateway.openai import parameters
from gateway.openai.completions.reply import TextChunkEncoder, text_completion, text_reply
from gateway.openai.requests import TextCompletionRequest

router = APIRouter(tags=["completions"], route_class=JSONRoute)


@router.post("/v1/completions", responses=either_whole_or_stream(TextCompletion, TextCompletion))
async def create_completion(
    body: TextCompletionRequest, request: Request, gateway: GatewayDep, request_id: RequestId
) -> Response:
    """Text continued as it stands, without a chat template."""
    await gateway.model(body.model)
    worker_request = parameters.completion_request(
        body, request_id, allow_grammar=gateway.settings.allow_grammar
    )
    reply = text_reply(body.model)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    asked = Asked(
        worker_request,
        num_choices=len(worker_request.prompts) * worker_request.n,
        ignored=parameters.completion_ignored(body),
        encoder=TextChunkEncoder(reply, include_usage),
        whole=lambda collector: text_completion(collector, reply),
    )
    return await answer(request, gateway, asked)
