"""From a request for a response to the answer that makes it: for a client, or in the background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from serve_app.api import asking, translate
from serve_app.api.answer import Answer
from serve_app.api.attempts import Announcing, Reading, Shortening, Waiting
from serve_app.api.calls import Call
from serve_app.api.response_reply import Manner, ResponseReply
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.options import Called
from serve_app.api.wire.responses import Asked, CustomTool, FunctionTool, ResponseRequest
from serve_app.api.wire.shape import read
from serve_app.errors import RequestError
from serve_app.protocol import Generate, History, Json, Relay, ResponseTurn

ROUTE = "responses"


@dataclass(frozen=True, slots=True)
class Job:
    """A response to make: ``items`` is what it adds to its history. ``added``: what it added when it was begun first.

    ``taken_up`` is called when the model begins with it.
    """

    call: Call
    wanted: ResponseRequest
    history: History
    items: tuple[Json, ...]
    response_id: str
    created: int
    added: tuple[Json, ...] = ()
    taken_up: Callable[[], None] | None = None


def answer(job: Job) -> Answer:
    """The answer, with everything that could be refused without asking the model refused."""
    call, wanted = job.call, job.wanted
    local = call.local
    chat = asking.chat_body(wanted, call.body, [*job.history.items, *job.items], local=local)
    work = request(call, chat)
    response = begun(job, translate.tier_name(work.tier) if isinstance(work, Generate) else "default")
    pad = wanted.streams_padding
    manner = Manner(wanted.stream, wanted.background, wanted.custom_tools, pad)
    reply = ResponseReply(response, manner, call.context.new_id, call.context.clock)
    return Answer(_prepared(job), call.opened(ROUTE, _turn(job, response)), work, reply)


def request(call: Call, chat: Json) -> Generate | Relay:
    """The chat completion that the call's backend is asked for; refusals name the parameter the client knows."""
    try:
        if call.local:
            return translate.chat(read(ChatRequest, chat, call.context.limits), call.errand)
        called = read(Called, {"model": chat["model"], "stream": True}, call.context.limits)
        return translate.relay("chat/completions", chat, called, call.errand, api_key=call.caller_key)
    except RequestError as refusal:
        failed = refusal.failed
        if failed.param is None or not failed.param.startswith("messages"):
            raise
        message = failed.message.replace(failed.param, "input")
        raise RequestError(failed.code, message, "input", failed.detail) from None


def begun(job: Job, tier: str) -> Json:
    """The response before anything was said. Every key that OpenAI's own always have is there."""
    wanted = job.wanted
    format_ = wanted.text.format.model_dump(by_alias=True, exclude_none=True)
    text = {"format": format_, "verbosity": wanted.text.verbosity or "medium"}
    conversation = None if wanted.conversation is None else {"id": wanted.conversation}
    named = {name: getattr(wanted, name) for name in ("prompt_cache_key", "safety_identifier", "user")}
    return {
        "id": job.response_id,
        "object": "response",
        "created_at": job.created,
        "status": "queued" if wanted.background else "in_progress",
        "background": wanted.background,
        "completed_at": None,
        "conversation": conversation,
        "error": None,
        "frequency_penalty": wanted.frequency_penalty,
        "incomplete_details": None,
        "instructions": wanted.instructions,
        "max_output_tokens": wanted.max_output_tokens,
        "max_tool_calls": wanted.max_tool_calls,
        "metadata": wanted.metadata,
        "model": job.call.target.id,
        "output": [],
        "parallel_tool_calls": wanted.parallel_tool_calls,
        "presence_penalty": wanted.presence_penalty,
        "previous_response_id": wanted.previous_response_id,
        "reasoning": {"effort": wanted.reasoning.effort, "summary": wanted.reasoning.summary},
        "service_tier": tier,
        "store": wanted.store,
        "temperature": wanted.temperature,
        "text": text,
        "tool_choice": _choice(wanted),
        "tools": [_tool(tool) for tool in wanted.tools if isinstance(tool, FunctionTool | CustomTool)],
        "top_logprobs": wanted.top_logprobs or 0,
        "top_p": wanted.top_p,
        "truncation": wanted.truncation,
        "usage": None,
        **{name: value for name, value in named.items() if value is not None},
    }


def _turn(job: Job, response: Json) -> ResponseTurn | None:
    """What has to be known to make it once more, should its server die; a caller's own key is not written down."""
    wanted, call = job.wanted, job.call
    if not wanted.store:
        return None
    body = {name: value for name, value in call.body.items() if name != "input"}
    again = {"body": body, "n_items": len(job.items), "weight": call.weight}
    return ResponseTurn(
        response_id=job.response_id,
        items=job.items,
        response=response,
        base=job.history.tip,
        conversation=wanted.conversation,
        background=wanted.background,
        request=again if wanted.background and call.caller_key is None else None,
        added=job.added,
    )


def _prepared(job: Job) -> Call:
    """The call, with a backend that behaves as the request wants it."""
    call, wanted = job.call, job.wanted
    backend = call.target.backend if call.local else Reading(call.target.backend)
    if wanted.truncation == "auto":
        backend = Shortening(backend)
    if wanted.background:
        backend = Waiting(backend)
    if job.taken_up is not None:
        backend = Announcing(backend, job.taken_up)
    return replace(call, target=replace(call.target, backend=backend))


def _choice(wanted: Asked) -> str | Json:
    choice = wanted.tool_choice
    return choice if isinstance(choice, str) else choice.model_dump()


def _tool(tool: FunctionTool | CustomTool) -> Json:
    if isinstance(tool, CustomTool):
        return tool.model_dump(exclude_none=True)
    return tool.model_dump()
