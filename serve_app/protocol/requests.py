"""What a backend is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serve_app.protocol.sampling import Dry, DynamicTemperature, Mirostat, Xtc
from serve_app.protocol.vocabulary import Json, Tier


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; ranges were checked at the door. ``max_tokens`` None: as far as the context goes."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repeat_last_n: int = -1
    """How far the three penalties look back into the answer, in tokens; -1: to its beginning."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_n_sigma: float | None = None
    dynamic_temperature: DynamicTemperature | None = None
    dry: Dry | None = None
    xtc: Xtc | None = None
    mirostat: Mirostat | None = None
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    """None: none wanted. k: the chosen token's, and the k most likely beside it."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation for the model's own template.

    ``messages`` are OpenAI's message objects as validated by ``wire``, content flattened to plain text.
    ``tools`` are OpenAI's ``function`` objects (name, description, parameters, strict); ``tool_choice`` is ``none``,
    ``auto``, ``required`` or ``function:<name>``.
    """

    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_options: Mapping[str, bool | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Text:
    """A raw prompt of the completions API: text, or token ids of the model's own vocabulary."""

    prompt: str | tuple[int, ...]
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must look like: a JSON schema, a regular expression, a grammar in Lark or GBNF.

    ``param`` names the request's parameter that says so, for refusals.
    """

    kind: Literal["json_schema", "regex", "lark", "grammar"]
    source: str
    param: str = "response_format"


@dataclass(frozen=True, slots=True)
class Generate:
    """One request for a local model. Choice index = position of the prompt * ``choices`` + j.

    ``cache_key``: the client's name for what its requests have in common; those of one name best go to one replica.
    ``weight``: the tenant's part of the model when more is wanted than there is; 2 gets twice what 1 gets.
    """

    request_id: str
    tenant: str
    model: str
    prompts: tuple[Chat | Text, ...]
    sampling: Sampling = Sampling()
    choices: int = 1
    echo: bool = False
    constraint: Constraint | None = None
    tier: Tier = Tier.DEFAULT
    weight: float = 1.0
    cache_key: str | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Embed:
    """Texts to be turned into vectors by a local model: each text, or token ids of the model's own vocabulary.

    ``dimensions``: cut the vectors to that length, where the model allows it. ``truncate_to``: cut texts to that many
    tokens, or to what the model takes if that is less; None: a text that is too long is refused.
    """

    request_id: str
    tenant: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    truncate_to: int | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Relay:
    """One request for a server that speaks OpenAI itself: the client's own JSON, passed on.

    ``body`` is the JSON to send (model name already the upstream's; ``stream_options.include_usage`` already set when
    streaming). ``hide_usage``: the client did not ask for usage, so its chunk and every ``usage`` key are removed.
    ``api_key``: the caller's own key for the upstream, where the operator allows that; else the upstream's is used.
    """

    request_id: str
    tenant: str
    model: str
    route: Literal["chat/completions", "completions", "embeddings"]
    body: bytes
    stream: bool
    hide_usage: bool = False
    api_key: str | None = None
    timeout_s: float = 600.0
