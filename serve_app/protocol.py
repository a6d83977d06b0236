"""The vocabulary of the house: every value that crosses a process, a thread or a room.

Values only: frozen, slotted, no behaviour beyond their own arithmetic, and no imports from the rest of the project.
A stream of events is ``Started``, then any number of ``Delta`` or ``Relayed``, then exactly one of ``Done`` or
``Failed``: from every backend, always. Events travel in lists (what was ready at the same moment); an empty list
says "alive, nothing to tell yet" and is how a backend that waits or computes keeps its stream from being cut.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

Json = dict[str, Any]
"""A JSON object as parsed: what a client sent, or what it will be sent."""

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
Order = Literal["asc", "desc"]


class FailureCode(StrEnum):
    """Why a request failed. Status, type and advice for each stand in ``serve_app.errors``, nowhere else."""

    INVALID_REQUEST = "invalid_value"
    UNSUPPORTED = "unsupported_parameter"
    CONTEXT_LENGTH = "context_length_exceeded"
    UNAUTHENTICATED = "invalid_api_key"
    NOT_PERMITTED = "permission_denied"
    REMOTE_WITHOUT_KEY = "api_key_not_configured"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    TOO_LARGE = "request_too_large"
    MEDIA_TYPE = "unsupported_media_type"
    QUEUE_FULL = "slow_down"
    MODEL_UNAVAILABLE = "model_unavailable"
    SHUTTING_DOWN = "server_shutting_down"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    TIMEOUT = "timeout"
    ENGINE_LOST = "engine_lost"
    INTERNAL = "internal_error"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_NOT_FOUND = "upstream_not_found"
    UPSTREAM_CALLER_KEY = "upstream_invalid_api_key"
    UPSTREAM_OWN_KEY = "upstream_authentication"
    UPSTREAM_RATE_LIMIT = "rate_limit_exceeded"
    UPSTREAM_QUOTA = "upstream_quota"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_PROTOCOL = "upstream_protocol"


# --- requests ---------------------------------------------------------------------------------------------------


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
    logit_bias: tuple[tuple[int, float], ...] = ()
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
    """What the answer must look like: a JSON schema, any JSON object, a regular expression, a Lark grammar."""

    kind: Literal["json_schema", "regex", "lark"]
    source: str


@dataclass(frozen=True, slots=True)
class Generate:
    """One request for a local model. Choice index = position of the prompt * ``choices`` + j."""

    request_id: str
    tenant: str
    model: str
    prompts: tuple[Chat | Text, ...]
    sampling: Sampling = Sampling()
    choices: int = 1
    echo: bool = False
    constraint: Constraint | None = None
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
    route: Literal["chat/completions", "completions"]
    body: bytes
    stream: bool
    hide_usage: bool = False
    api_key: str | None = None
    timeout_s: float = 600.0


# --- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token: ``logprob`` natural log, floor -9999.0; ``top`` is (token, logprob, bytes), best first."""

    token: str
    logprob: float | None
    data: bytes
    top: tuple[tuple[str, float, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of one tool call. ``id`` and ``name`` come with the first piece of a call only."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; the prompt counts once however many choices it has."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted: whatever could be refused has been."""

    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice gained. ``finish`` is set once per choice, on its last delta."""

    choice: int
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Relayed:
    """JSON of an upstream, ready for the client: one chunk of its stream, or its whole body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The good end."""

    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Failed:
    """The bad end. ``message`` is one line for the client: no traceback, path, key or prompt.

    ``detail`` overrides OpenAI's ``code`` where an upstream named a finer one.
    """

    code: FailureCode
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    detail: str | None = None
    usage: Usage = Usage()


Event = Started | Delta | Relayed | Done | Failed


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One callable model. ``context_length`` in tokens, None when unknown (an upstream's)."""

    id: str
    created: int
    owned_by: str
    context_length: int | None = None


class Backend(Protocol):
    """Something that answers: a local engine, an upstream, or a Ray handle to either."""

    def generate(self, request: Generate | Relay) -> AsyncGenerator[list[Event], None]:
        """Stream the answer (module docstring). Closing the generator cancels the work; it never raises."""
        ...

    async def models(self) -> tuple[ModelCard, ...]:
        """The models it can answer for now; empty when it can answer for none. Never raises."""
        ...


# --- the ledger -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Turn:
    """A chat completion to keep (``store: true``): its id, its request and its messages, as the client sent them."""

    completion_id: str
    messages: tuple[Json, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """A request was admitted. Becomes one usage row, and one stored turn when ``turn`` is given.

    ``writer`` names the ingress replica that will close it; ``started_s`` is wall-clock seconds since the epoch.
    """

    entry_id: str
    writer: str
    tenant: str
    request_id: str
    model: str
    route: str
    served_by: Literal["local", "upstream"]
    started_s: float
    user: str | None = None
    turn: Turn | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A request ended. Carries its ``Opened`` so that it can be written even if the opening never was.

    ``completion`` is the whole ``chat.completion`` object for a stored turn: with what was generated when the request
    was cut, None when there is nothing. Seconds are durations.
    """

    opened: Opened
    status: Literal["completed", "failed", "cancelled"]
    usage: Usage
    duration_s: float
    first_token_s: float | None = None
    failure: str | None = None
    completion: Json | None = None


@dataclass(frozen=True, slots=True)
class CompletionQuery:
    """A page of stored completions, by creation. ``after`` is the last id of the page before."""

    after: str | None = None
    limit: int = 20
    order: Order = "asc"
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """``data`` in order; ``has_more``: there is another page after it."""

    data: tuple[Json, ...]
    has_more: bool


class StoreError(Exception):
    """The store cannot answer now (down, locked, full, overloaded). Retry later; nothing was half done."""


class CursorNotFound(Exception):
    """``after`` names nothing in the list."""


class Store(Protocol):
    """Durable state. Every method raises ``StoreError`` when the database cannot answer; reads never cross tenants."""

    async def write(self, entries: Sequence[Opened | Closed]) -> None:
        """Durable on return, all or nothing, idempotent by ``entry_id``; a late ``Opened`` never reopens."""
        ...

    async def beat(self, writer: str) -> None:
        """The writer lives. Entries it opened stay in progress."""
        ...

    async def reap(self, older_than_s: float) -> int:
        """Entries in progress whose writer was silent that long become ``incomplete``; how many did."""
        ...

    async def completions(self, tenant: str, query: CompletionQuery) -> Page: ...

    async def completion(self, tenant: str, completion_id: str) -> Json | None: ...

    async def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Json | None: ...

    async def delete_completion(self, tenant: str, completion_id: str) -> bool: ...

    async def messages(self, tenant: str, completion_id: str, query: CompletionQuery) -> Page | None:
        """The request's messages, each with an ``id``; only ``after``, ``limit`` and ``order`` of the query count."""
        ...

    async def check(self) -> None:
        """Raises ``StoreError`` unless a write could succeed now."""
        ...
