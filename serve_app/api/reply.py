"""What every answer has in common, whatever it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from serve_app.protocol import Delta, Embedded, Failed, Json, Relayed, Started, Usage

EventT_contra = TypeVar("EventT_contra", Delta, Embedded, Relayed, contravariant=True)


@dataclass(frozen=True, slots=True)
class Head:
    """What is the same in every chunk of an answer. ``model`` is the id as it was called."""

    id: str
    created: int
    model: str
    fingerprint: str
    service_tier: str = "default"


class Reply(Protocol[EventT_contra]):
    """Events of one answer -> the JSON its client gets. Pure, stateful, one per answer."""

    def start(self, started: Started) -> list[bytes]:
        """The chunks that a stream begins with, once its request was admitted."""
        return []

    def take(self, event: EventT_contra) -> list[bytes]:
        """The chunks to send now; none where the answer is a single body."""
        ...

    def end(self, usage: Usage) -> list[bytes]:
        """What was held back until the good end was certain: the last chunks, or the body."""
        ...

    def fail(self, failed: Failed) -> list[bytes]:
        """The chunks that end a stream which had begun; none where the error alone says it all. Before ``kept``."""
        return []

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        """The completion object to store. Not ``whole``: what there is of it, None when there is nothing."""
        ...


def usage_json(usage: Usage) -> Json:
    """OpenAI's ``usage``; what a text model never has counts zero."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
