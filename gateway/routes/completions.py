"""POST /v1/completions, OpenAI's legacy text completions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway import parameters
from gateway.context import GatewayDep, RequestId
from gateway.json_body import JSONRoute
from gateway.openapi import TextCompletion, either_whole_or_stream
from gateway.requests import TextCompletionRequest
from gateway.routes.answers import Asked, answer
from gateway.text_completions import TextChunkEncoder, text_completion, text_reply

router = APIRouter(tags=["completions"], route_class=JSONRoute)


@router.post("/v1/completions", responses=either_whole_or_stream(TextCompletion, TextCompletion))
async def create_completion(
    body: TextCompletionRequest, request: Request, gateway: GatewayDep, request_id: RequestId
) -> Response:
    """Text continued as it stands, without a chat template."""
    await gateway.model(body.model)
    worker_request = parameters.completion_request(body, request_id)
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
