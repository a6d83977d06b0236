"""chatbot-ui v3: what its back end sends, byte for byte, and what its page would show of the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

from serve_app.api.app import create_app
from serve_app.api.directory import Alias
from serve_app.api.limits import Limits
from serve_app.protocol import Chat, Delta, Failed, FailureCode, Generate, Started
from tests.api.conversation import DONE, STARTED
from tests.api.serving import KEY, make_context, serving
from tests.fakes import FakeBackend, Step, card

KNOWN = {"gpt-3.5-turbo": "GPT-3.5", "gpt-35-turbo": "GPT-3.5", "gpt-4": "GPT-4", "gpt-4-32k": "GPT-4-32K"} | {
    "llama": "Llama-compatible LLM"
}
PROMPT = "You are ChatGPT, a large language model trained by OpenAI. Follow the user's instructions carefully."
HEADERS = {
    "Content-Type": "application/json",
    "Authorization": f"Bearer {KEY}",
    "OpenAI-Organization": "org-example",
    "accept": "*/*",
    "accept-language": "*",
    "sec-fetch-mode": "cors",
    "user-agent": "undici",
}


def sent(model: str, *messages: dict[str, str]) -> bytes:
    """The body of its request, keys in its order."""
    body = {
        "model": model,
        "messages": [{"role": "system", "content": PROMPT}, *messages],
        "max_tokens": 1000,
        "temperature": 1,
        "stream": True,
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


class Page:
    """Reads as its back end does: each read decoded by itself, each event parsed, until a chunk has a finish reason."""

    def __init__(self) -> None:
        self.shown = ""
        self.closed = False
        self.error: Exception | None = None
        self._buffer = ""
        self._data: list[str] = []

    def read(self, chunk: bytes) -> None:
        self._buffer += chunk.decode("utf-8", "replace")
        *lines, self._buffer = self._buffer.replace("\r\n", "\n").split("\n")
        for data in self._events(lines):
            self._on_event(data)

    def _events(self, lines: Iterable[str]) -> Iterator[str]:
        """As eventsource-parser does."""
        for line in lines:
            if not line and self._data:
                yield "\n".join(self._data)
                self._data = []
            elif line.startswith("data:"):
                self._data.append(line.removeprefix("data:").removeprefix(" "))

    def _on_event(self, data: str) -> None:
        """A closed stream ignores what comes later, ``[DONE]`` too; an open one breaks on what is not a chunk."""
        if self.closed or self.error:
            return
        try:
            choice = json.loads(data)["choices"][0]
            if choice["finish_reason"] is not None:
                self.closed = True
                return
            content = choice["delta"].get("content", "")  # undefined is encoded as nothing, null as "null"
            self.shown += "null" if content is None else str(content)
        except (ValueError, LookupError) as error:
            self.error = error


async def show(*script: Step, model: str = "llama", body: bytes | None = None, silence_s: float = 5) -> Page:
    """What the page shows of one answer, read in the pieces in which it was written."""
    page = Page()
    async for write in writes(body or sent(model, {"role": "user", "content": "Hi"}), *script, silence_s=silence_s):
        page.read(write)
    return page


async def writes(body: bytes, *script: Step, silence_s: float = 5) -> AsyncIterator[bytes]:
    gate = create_app(context(FakeBackend(*script), silence_s=silence_s), own_request_id=True)
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST"}
    scope |= {
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "scheme": "http",
    }
    scope |= {
        "headers": [(b"host", b"llm-backend"), *headers],
        "client": ("10.0.0.7", 4000),
        "server": ("10.0.0.1", 8000),
    }
    request = [{"type": "http.request", "body": body, "more_body": False}]
    answered: list[Any] = []

    async def receive() -> Any:
        return request.pop() if request else await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        answered.append(message)

    async with gate.app.router.lifespan_context(gate.app):
        await gate(scope, receive, send)
    assert answered[0]["status"] == 200
    for message in answered[1:]:
        if message.get("body"):
            yield message["body"]


def context(backend: FakeBackend, *, silence_s: float = 5) -> Any:
    aliases = {"gpt-3.5-turbo": Alias("llama"), "my-own-name": Alias("llama")}
    return make_context(local={"llama": backend}, aliases=aliases, keys=(KEY,), limits=Limits(silence_s=silence_s))


def told(*texts: str) -> list[Step]:
    return [[STARTED], *([Delta(0, text)] for text in texts), [Delta(0, "", finish="stop")], [DONE]]


async def test_an_answer_is_shown_whole_and_ends() -> None:
    page = await show(*told("Grüße", ", ", "日本 ", "👩‍👩‍👧", "!\n\n```py\nx\n```"))
    assert (page.shown, page.closed, page.error) == ("Grüße, 日本 👩‍👩‍👧!\n\n```py\nx\n```", True, None)


async def test_text_that_arrives_with_the_end_is_not_lost() -> None:
    """The page drops what is in the chunk with the finish reason."""
    page = await show([STARTED], [Delta(0, "all of "), Delta(0, "it", finish="length")], [DONE])
    assert (page.shown, page.closed) == ("all of it", True)


async def test_an_empty_answer_shows_nothing_and_ends() -> None:
    page = await show([STARTED], [Delta(0, "", finish="stop")], [DONE])
    assert (page.shown, page.closed, page.error) == ("", True, None)


async def test_no_character_is_cut_between_two_writes() -> None:
    """The page decodes each read by itself."""
    async for write in writes(sent("llama", {"role": "user", "content": "Hi"}), *told("😀", "é", "日")):
        write.decode("utf-8", "strict")


async def test_signs_of_life_are_not_shown() -> None:
    """An empty list of events is one: a prompt is being read."""
    page = await show([STARTED], [], [], [Delta(0, "Hi")], [], [Delta(0, "", finish="stop")], [DONE])
    assert (page.shown, page.closed, page.error) == ("Hi", True, None)


async def test_thinking_is_not_shown_and_does_not_break_the_page() -> None:
    thinking = Delta(0, "", reasoning="Let me see.")
    page = await show([STARTED], [thinking], [Delta(0, "42")], [Delta(0, "", finish="stop")], [DONE])
    assert (page.shown, page.closed, page.error) == ("42", True, None)


async def test_what_it_sends_arrives_as_it_was_meant() -> None:
    backend = FakeBackend(*told("Hi"))
    turns = [
        {"role": "user", "content": "Hi 😀"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "?"},
    ]
    async with serving(context(backend)) as client:
        response = await client.post("/v1/chat/completions", content=sent("gpt-3.5-turbo", *turns), headers=HEADERS)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    (asked,) = backend.requests
    assert isinstance(asked, Generate)
    assert asked.sampling.max_tokens == 1000
    assert asked.sampling.temperature == 1
    (prompt,) = asked.prompts
    assert isinstance(prompt, Chat)
    roles = [message["role"] for message in prompt.messages]
    assert roles == ["system", "user", "assistant", "user"]


async def test_it_lists_the_models_it_knows_and_no_others() -> None:
    async with serving(context(FakeBackend(cards=[card("llama")]))) as client:
        response = await client.get("/v1/models", headers=HEADERS)
    assert response.status_code == 200
    listed = [card["id"] for card in response.json()["data"] if card["id"] in KNOWN]
    assert sorted(listed) == ["gpt-3.5-turbo", "llama"]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (sent("llama"), {"Authorization": "Bearer undefined"}, 401),
        (sent("gpt-4"), {}, 404),
        (sent("llama", {"role": "wizard", "content": "Hi"}), {}, 400),
    ],
)
async def test_a_refusal_is_a_line_that_its_toast_can_show(body: bytes, headers: dict[str, str], status: int) -> None:
    """It puts the message into the status line of an answer of its own: one line of Latin-1."""
    async with serving(context(FakeBackend(*told("Hi")))) as client:
        response = await client.post("/v1/chat/completions", content=body, headers={**HEADERS, **headers})
    assert response.status_code == status
    message = response.json()["error"]["message"]
    assert message.encode("latin-1")
    assert not set(message) & set("\r\n")


async def test_an_engine_that_fails_at_once_is_a_refusal_and_not_a_broken_stream() -> None:
    backend = FakeBackend([Failed(FailureCode.QUEUE_FULL, "The queue is full.")])
    async with serving(context(backend)) as client:
        response = await client.post("/v1/chat/completions", content=sent("llama"), headers=HEADERS)
    assert response.status_code == 429
    assert response.json()["error"]["message"]


async def test_a_stream_that_breaks_ends_for_the_page_too() -> None:
    """With an error, so that it does not wait for ever."""
    page = await show([Started(7, 0)], [Delta(0, "Half")], [Failed(FailureCode.ENGINE_LOST, "The engine was lost.")])
    assert page.shown == "Half"
    assert page.error is not None
