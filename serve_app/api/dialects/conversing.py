"""From a chat in some dialect, already in OpenAI's words, to the answer in the dialect's own."""

from __future__ import annotations

from dataclasses import replace

from serve_app.api import translate
from serve_app.api.answer import Answer
from serve_app.api.attempts import Reading
from serve_app.api.calls import Call
from serve_app.api.reply import Reply
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.options import Called
from serve_app.api.wire.shape import read
from serve_app.protocol import Delta, Generate, Json, Relay


def converse(call: Call, chat: Json, route: str, reply: Reply[Delta]) -> Answer:
    """Asks the call's model, local or an upstream's. Whatever is wrong with ``chat`` is refused here."""
    called = read(Called, chat, call.context.limits)
    backend = call.target.backend if call.local else Reading(call.target.backend)
    prepared = replace(call, called=called, target=replace(call.target, backend=backend))
    return Answer(prepared, prepared.opened(route), work(call, chat), reply)


def work(call: Call, chat: Json) -> Generate | Relay:
    """The chat completion. An upstream is always asked for a stream, whose chunks are read as a model's deltas."""
    limits = call.context.limits
    if call.local:
        return translate.chat(read(ChatRequest, chat, limits), call.errand)
    asked = read(Called, {"model": call.called.model, "stream": True}, limits)
    return translate.relay("chat/completions", {**chat, "stream": True}, asked, call.errand, api_key=call.caller_key)
