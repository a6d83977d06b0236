"""A bare upstream for the proxy's overhead, as cheap as a server of chat completions can be: run it with a port."""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn

N_CHUNKS = 50
_USAGE = {"prompt_tokens": 5, "completion_tokens": N_CHUNKS, "total_tokens": N_CHUNKS + 5}


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-bench", "object": kind, "created": 1, "model": "cloud"}


def _event(delta: dict[str, Any], finish: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return (
        b"data: "
        + json.dumps({**_head("chat.completion.chunk"), "choices": [choice], "usage": None}).encode()
        + b"\n\n"
    )


def _stream() -> list[bytes]:
    usage = {**_head("chat.completion.chunk"), "choices": [], "usage": _USAGE}
    return [
        _event({"role": "assistant", "content": "", "refusal": None}, None),
        *(_event({"content": " word"}, None) for _ in range(N_CHUNKS)),
        _event({}, "stop"),
        b"data: " + json.dumps(usage).encode() + b"\n\n",
        b"data: [DONE]\n\n",
    ]


def _whole() -> bytes:
    message = {"role": "assistant", "content": " word" * N_CHUNKS, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return json.dumps({**_head("chat.completion"), "choices": [choice], "usage": _USAGE}).encode()


class Upstream:
    """ASGI. Everything it says is prepared."""

    def __init__(self) -> None:
        self._events = _stream()
        self._body = _whole()
        card = {"id": "cloud", "object": "model", "created": 1, "owned_by": "bench"}
        self._models = json.dumps({"object": "list", "data": [card]}).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"].endswith("/models"):
            await self._answer(send, "application/json", [self._models])
        elif b'"stream":true' in body or b'"stream": true' in body:
            await self._answer(send, "text/event-stream", self._events)
        else:
            await self._answer(send, "application/json", [self._body])

    @staticmethod
    async def _answer(send: Any, kind: str, parts: list[bytes]) -> None:
        headers = [(b"content-type", kind.encode())]
        if len(parts) == 1:
            headers.append((b"content-length", str(len(parts[0])).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(Upstream(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
