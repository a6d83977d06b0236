"""Events of a local model -> OpenAI's (text) completion, as a stream of chunks or as one object."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from serve_app.api.reply import Head, Reply, usage_json
from serve_app.protocol import Delta, Finish, Json, TokenLogprob, Usage


class _Track:
    """Where in a choice's text its tokens begin, in characters. A token that is part of a character begins with it."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.data))
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_top(token) for token in tokens],
            "text_offset": offsets,
        }


def _top(token: TokenLogprob) -> Json | None:
    """The most likely tokens and always the chosen one; None for a prompt's first, which nothing predicted."""
    if token.logprob is None:
        return None
    return {text: logprob for text, logprob, _ in token.top} | {token.token: token.logprob}


class CompletionStream(Reply[Delta]):
    """``choices``: over all prompts. ``usage``: the client asked for it. Finish chunks wait for ``end``."""

    def __init__(self, head: Head, choices: int = 1, *, usage: bool = False) -> None:
        self._head = orjson.dumps(_head(head))[:-1] + b',"choices":['
        self._finish: list[Finish] = ["stop"] * choices
        self._tracks = [_Track() for _ in range(choices)]
        self._usage = usage
        self._closing = b',"usage":null}' if usage else b"}"

    def take(self, event: Delta) -> list[bytes]:
        if event.finish is not None:
            self._finish[event.choice] = event.finish
        if not event.text and not event.logprobs:
            return []
        logprobs = self._tracks[event.choice].logprobs(event.logprobs) if event.logprobs else None
        return [self._chunk(event.choice, event.text, logprobs)]

    def end(self, usage: Usage) -> list[bytes]:
        chunks = [self._chunk(index, "", finish=finish) for index, finish in enumerate(self._finish)]
        if self._usage:
            chunks.append(self._head + b'],"usage":' + orjson.dumps(usage_json(usage)) + b"}")
        return chunks

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None

    def _chunk(self, index: int, text: str, logprobs: Json | None = None, finish: Finish | None = None) -> bytes:
        choice = {"text": text, "index": index, "logprobs": logprobs, "finish_reason": finish}
        return self._head + orjson.dumps(choice) + b"]" + self._closing


@dataclass(slots=True)
class _Candidate:
    text: list[str] = field(default_factory=list)
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish: Finish = "stop"

    @property
    def likelihood(self) -> float:
        """The mean log probability of its tokens; nothing at all is the least likely answer."""
        known = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(known) / len(known) if known else float("-inf")


class CompletionBody(Reply[Delta]):
    """The whole answer as one object.

    Of each prompt's ``candidates`` the ``n`` most likely are kept, best first; with as many as ``n``, all, in order.
    """

    def __init__(
        self, head: Head, prompts: int = 1, n: int = 1, *, candidates: int = 1, logprobs: bool = False
    ) -> None:
        self._head = head
        self._n = n
        self._logprobs = logprobs
        self._prompts = [[_Candidate() for _ in range(candidates)] for _ in range(prompts)]
        self._candidates = [candidate for prompt in self._prompts for candidate in prompt]

    def take(self, event: Delta) -> list[bytes]:
        candidate = self._candidates[event.choice]
        candidate.text.append(event.text)
        candidate.tokens.extend(event.logprobs)
        candidate.finish = event.finish or candidate.finish
        return []

    def end(self, usage: Usage) -> list[bytes]:
        best = [candidate for prompt in self._prompts for candidate in self._best(prompt)]
        choices = [self._choice(index, candidate) for index, candidate in enumerate(best)]
        return [orjson.dumps(_head(self._head) | {"choices": choices, "usage": usage_json(usage)})]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None

    def _best(self, prompt: list[_Candidate]) -> list[_Candidate]:
        if len(prompt) == self._n:
            return prompt
        return sorted(prompt, key=lambda candidate: candidate.likelihood, reverse=True)[: self._n]

    def _choice(self, index: int, candidate: _Candidate) -> Json:
        return {
            "text": "".join(candidate.text),
            "index": index,
            "logprobs": _Track().logprobs(candidate.tokens) if self._logprobs else None,
            "finish_reason": candidate.finish,
        }


def _head(head: Head) -> Json:
    return {
        "id": head.id,
        "object": "text_completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
    }
