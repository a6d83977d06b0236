"""``POST /v1/completions``."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter
from starlette.requests import Request

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import Call, receive
from serve_app.api.relayed import RelayedBody, RelayedStream
from serve_app.api.reply import Head, Reply
from serve_app.api.text_chunks import CompletionBody, CompletionStream
from serve_app.api.wire.completions import CompletionRequest
from serve_app.api.wire.shape import read
from serve_app.protocol import Delta, Generate, Relay, Relayed

router = APIRouter()

_ROUTE: Final = "completions"


@router.post("/v1/completions", response_model=None)
@router.post("/openai/deployments/{deployment:path}/completions", response_model=None)
async def create(request: Request) -> Answer:
    """A completion of one or more raw prompts, streamed or whole. OpenAI stores none of these, and neither do we."""
    call = await receive(request)
    work, reply = _local(call) if call.local else _upstream(call)
    return Answer(call, call.opened(_ROUTE), work, reply)


def _local(call: Call) -> tuple[Generate, Reply[Delta]]:
    wanted = read(CompletionRequest, call.body, call.context.limits)
    head = Head(f"cmpl-{call.id}", int(call.started_s), call.target.id, call.fingerprint)
    work, prompts = translate.completion(wanted, call.errand), len(wanted.prompts)
    if wanted.stream:
        return work, CompletionStream(head, prompts * wanted.n, usage=wanted.streams_usage)
    told = wanted.logprobs is not None
    return work, CompletionBody(head, prompts, wanted.n, candidates=wanted.candidates, logprobs=told)


def _upstream(call: Call) -> tuple[Relay, Reply[Relayed]]:
    work = translate.relay(_ROUTE, call.body, call.called, call.errand, api_key=call.caller_key)
    return work, RelayedStream() if call.called.stream else RelayedBody()
