"""The items a response's output is made of, as they grow: each knows its own events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from serve_app.api.items import custom_input
from serve_app.protocol import Json

Told = Iterator[tuple[str, Json]]
"""Events: type, and what it tells."""


class Output(Protocol):
    """``item`` is what it is so far. ``open`` first, ``close`` last."""

    item: Json

    def open(self) -> Told: ...

    def gain(self, text: str, logprobs: Sequence[Json] = ()) -> Told: ...

    def close(self, status: str) -> Told: ...


class _Spoken:
    """An item with one part of text, which is there from the beginning."""

    part: Json
    events: str

    def __init__(self, item: Json, index: int) -> None:
        self.item = item
        self._index = index
        self._texts: list[str] = []
        self._logprobs: list[Json] = []
        self._part = dict(self.part)

    @property
    def _at(self) -> Json:
        return {"item_id": self.item["id"], "output_index": self._index, "content_index": 0}

    def open(self) -> Told:
        yield "response.output_item.added", {"output_index": self._index, "item": dict(self.item)}
        yield "response.content_part.added", self._at | {"part": dict(self._part)}

    def gain(self, text: str, logprobs: Sequence[Json] = ()) -> Told:
        self._texts.append(text)
        self._logprobs += logprobs
        yield f"{self.events}.delta", self._at | {"delta": text} | self._told(logprobs)

    def close(self, status: str) -> Told:
        self._part = self._part | {"text": "".join(self._texts)} | self._extra(self._logprobs)
        self.item |= {"status": status, "content": [self._part]}
        yield f"{self.events}.done", self._at | {"text": self._part["text"]} | self._told(self._logprobs)
        yield "response.content_part.done", self._at | {"part": self._part}
        yield "response.output_item.done", {"output_index": self._index, "item": self.item}

    def _extra(self, logprobs: Sequence[Json]) -> Json:
        return {}

    def _told(self, logprobs: Sequence[Json]) -> Json:
        return self._extra([_brief(entry) for entry in logprobs])


def _brief(entry: Json) -> Json:
    """A token as events tell it: without its bytes."""
    top = [{"token": one["token"], "logprob": one["logprob"]} for one in entry["top_logprobs"]]
    return {"token": entry["token"], "logprob": entry["logprob"], "top_logprobs": top}


class Message(_Spoken):
    """What the assistant says."""

    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}  # noqa: RUF012  # never changed
    events = "response.output_text"

    def __init__(self, id_: str, index: int) -> None:
        item = {"id": f"msg_{id_}", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        super().__init__(item, index)

    def _extra(self, logprobs: Sequence[Json]) -> Json:
        return {"logprobs": list(logprobs)}


class Thought(_Spoken):
    """What the model thinks. Whole, not summarised."""

    part = {"type": "reasoning_text", "text": ""}  # noqa: RUF012  # never changed
    events = "response.reasoning_text"

    def __init__(self, id_: str, index: int) -> None:
        super().__init__({"id": f"rs_{id_}", "type": "reasoning", "status": "in_progress", "summary": []}, index)


class _Called:
    """A call of a tool, by its arguments as they come."""

    def __init__(self, item: Json, index: int) -> None:
        self.item = item
        self._index = index
        self._pieces: list[str] = []

    @property
    def _at(self) -> Json:
        return {"item_id": self.item["id"], "output_index": self._index}

    def open(self) -> Told:
        yield "response.output_item.added", {"output_index": self._index, "item": dict(self.item)}

    def _done(self) -> Told:
        yield "response.output_item.done", {"output_index": self._index, "item": self.item}


class Call(_Called):
    """A function call."""

    def __init__(self, id_: str, index: int, call_id: str, name: str) -> None:
        item = {"id": f"fc_{id_}", "type": "function_call", "status": "in_progress"}
        super().__init__(item | {"call_id": call_id, "name": name, "arguments": ""}, index)

    def gain(self, text: str, logprobs: Sequence[Json] = ()) -> Told:
        self._pieces.append(text)
        if text:
            yield "response.function_call_arguments.delta", self._at | {"delta": text}

    def close(self, status: str) -> Told:
        self.item |= {"status": status, "arguments": "".join(self._pieces)}
        told = {"name": self.item["name"], "arguments": self.item["arguments"]}
        yield "response.function_call_arguments.done", self._at | told
        yield from self._done()


class Custom(_Called):
    """A call of a custom tool. Its input is known once the arguments that carry it are whole."""

    def __init__(self, id_: str, index: int, call_id: str, name: str) -> None:
        item = {"id": f"ctc_{id_}", "type": "custom_tool_call", "status": "in_progress"}
        super().__init__(item | {"call_id": call_id, "name": name, "input": ""}, index)

    def gain(self, text: str, logprobs: Sequence[Json] = ()) -> Told:
        self._pieces.append(text)
        yield from ()

    def close(self, status: str) -> Told:
        text = custom_input("".join(self._pieces))
        self.item |= {"status": status, "input": text}
        yield "response.custom_tool_call_input.delta", self._at | {"delta": text}
        yield "response.custom_tool_call_input.done", self._at | {"input": text}
        yield from self._done()
