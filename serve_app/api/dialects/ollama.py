"""Ollama's API: ``/api/chat``, ``/api/generate``, ``/api/embed`` and what its clients ask before they use them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from hashlib import sha256
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.calls import Call, body_of, place
from serve_app.api.context import Context, context_of
from serve_app.api.dialects.conversing import converse
from serve_app.api.dialects.ollama_chat import chat_body, prompt_chat_body, raw_body
from serve_app.api.dialects.ollama_reply import Kind, OllamaReply, Telling, timestamp
from serve_app.api.dialects.vectors import Vector, embed
from serve_app.api.directory import no_such_model
from serve_app.api.models import callable_models
from serve_app.api.wire.completions import CompletionRequest
from serve_app.api.wire.ollama import ChatRequest, EmbedRequest, GenerateRequest, ShowRequest
from serve_app.api.wire.shape import ShapeT, read
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json, ModelCard, Usage

router = APIRouter()

_VERSION: Final = "0.12.0"
"""The one whose API this is."""
_LATEST = ":latest"
_FOR_EVER_S = timedelta(days=365).total_seconds()
_DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "",
    "families": [],
    "parameter_size": "",
    "quantization_level": "",
}


@router.post("/api/chat", response_model=None)
async def chat(request: Request) -> Response:
    """A chat; without messages, whether the model is there."""
    wanted = await _read(request, ChatRequest)
    call = await place(request, chat_body(wanted))
    telling = _telling("chat", call)
    if not wanted.messages:
        return _loaded(telling)
    return converse(call, call.body, "api/chat", OllamaReply(telling, stream=wanted.stream))


@router.post("/api/generate", response_model=None)
async def generate(request: Request) -> Response:
    """An answer to one prompt; without a prompt, whether the model is there."""
    wanted = await _read(request, GenerateRequest)
    raw = wanted.raw or bool(wanted.suffix)
    call = await place(request, raw_body(wanted) if raw else prompt_chat_body(wanted))
    telling = _telling("generate", call)
    if not wanted.prompt:
        return _loaded(telling)
    reply = OllamaReply(telling, stream=wanted.stream)
    return _raw(call, reply) if raw else converse(call, call.body, "api/generate", reply)


@router.post("/api/embed", response_model=None)
async def embed_texts(request: Request) -> Answer:
    """A vector for each text."""
    wanted = await _read(request, EmbedRequest)
    body = wanted.model_dump(exclude_none=True) | {"encoding_format": "float"}
    call = await place(request, body)
    return embed(call, body, "api/embed", partial(_embedded, call))


@router.post("/api/embeddings", response_model=None)
async def embed_prompt(request: Request) -> Answer:
    """The vector of one text, as it was asked for once."""
    body = await body_of(request)
    wanted = await _named(
        request, read(EmbedRequest, {**body, "input": body.get("prompt")}, context_of(request).limits)
    )
    asked = wanted.model_dump(exclude_none=True) | {"encoding_format": "float"}
    return embed(await place(request, asked), asked, "api/embeddings", _one_embedded)


@router.get("/api/tags")
async def tags(request: Request) -> Response:
    """Every model that answers now."""
    context = context_of(request)
    return JSONResponse({"models": [_model(card, context) for card in await callable_models(request)]})


@router.get("/api/ps")
async def running(request: Request) -> Response:
    """The same: what answers is loaded."""
    context = context_of(request)
    expires = {"expires_at": timestamp(context.clock() + _FOR_EVER_S), "size_vram": 0}
    cards = await callable_models(request)
    return JSONResponse(
        {"models": [_model(card, context) | expires | {"context_length": card.context_length or 0} for card in cards]}
    )


@router.post("/api/show")
async def show(request: Request) -> Response:
    """What is known of one model."""
    context = context_of(request)
    wanted = read(ShowRequest, await body_of(request), context.limits)
    name = wanted.model or wanted.name
    cards = {card.id: card for card in await callable_models(request)}
    card = cards.get(name) or cards.get(name.removesuffix(_LATEST))
    if card is None:
        raise no_such_model(name)
    info: Json = {"general.architecture": "llama", "general.basename": card.id}
    if card.context_length is not None:
        info["llama.context_length"] = card.context_length
    texts = {"modelfile": "", "parameters": "", "template": "", "license": ""}
    known = {"details": _DETAILS, "model_info": info, "capabilities": ["completion", "tools"]}
    return JSONResponse(texts | known | {"modified_at": timestamp(card.created)})


@router.get("/api/version")
async def version() -> Response:
    """Ollama's, not ours: clients choose by it what they may ask."""
    return JSONResponse({"version": _VERSION})


async def manage(request: Request) -> Response:
    """Pulling, copying, deleting models."""
    raise RequestError(FailureCode.UNSUPPORTED_ENDPOINT, "The models of this server are chosen by its operator.")


router.add_route("/api/{verb:path}", manage, methods=["POST", "DELETE"], include_in_schema=False)


def _raw(call: Call, reply: OllamaReply) -> Answer:
    if not call.local:
        text = "Raw prompts and suffixes need a local model."
        raise RequestError(FailureCode.UNSUPPORTED_ENDPOINT, text)
    wanted = read(CompletionRequest, call.body, call.context.limits)
    work = translate.completion(wanted, call.errand)
    if "max_tokens" not in call.body:
        work = replace(work, sampling=replace(work.sampling, max_tokens=None))
    return Answer(call, call.opened("api/generate"), work, reply)


async def _read(request: Request, shape: type[ShapeT]) -> ShapeT:
    return await _named(request, read(shape, await body_of(request), context_of(request).limits))


async def _named(request: Request, wanted: ShapeT) -> ShapeT:
    """With the model's own name where the client added Ollama's tag to it."""
    model: str = getattr(wanted, "model", "")
    if not model.endswith(_LATEST):
        return wanted
    try:
        await context_of(request).directory.resolve(model)
    except RequestError:
        return wanted.model_copy(update={"model": model.removesuffix(_LATEST)})
    return wanted


def _telling(kind: Kind, call: Call) -> Telling:
    return Telling(kind, call.called.model, call.started_s, call.context.clock)


def _loaded(telling: Telling) -> Response:
    return JSONResponse(telling.head() | telling.said("") | {"done": True, "done_reason": "load"})


def _embedded(call: Call, vectors: list[Vector], usage: Usage) -> Json:
    total_s = max(0.0, call.context.clock() - call.started_s)
    told = {"total_duration": round(total_s * 1e9), "load_duration": 0, "prompt_eval_count": usage.prompt_tokens}
    return {"model": call.called.model, "embeddings": vectors} | told


def _one_embedded(vectors: list[Vector], usage: Usage) -> Json:
    return {"embedding": vectors[0]}


def _model(card: ModelCard, context: Context) -> Json:
    digest = sha256(card.id.encode()).hexdigest()
    head = {"name": card.id, "model": card.id, "modified_at": timestamp(card.created)}
    return head | {"size": 0, "digest": digest, "details": _DETAILS}
