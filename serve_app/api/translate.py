"""Wire shapes -> protocol values. Pure: what a request means, and to whom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import orjson

from serve_app.api.llama_sampling import samplers
from serve_app.api.wire.chat import ChatRequest, PlainFormat, SchemaFormat
from serve_app.api.wire.completions import CompletionRequest
from serve_app.api.wire.embeddings import EmbeddingsRequest
from serve_app.api.wire.messages import AssistantMessage, FunctionMessage, Message, ToolMessage
from serve_app.api.wire.options import Called, Sampled, StructuredOutputs
from serve_app.api.wire.tools import AllowedTools, Function, Named, NamedFunction
from serve_app.protocol import Chat, Constraint, Embed, Generate, Json, Relay, Sampling, Text, Tier

_TIERS = {"flex": Tier.BATCH, "priority": Tier.PRIORITY, "fast": Tier.PRIORITY}
"""What ``service_tier`` asks for; every other name is the default."""

_TIER_NAMES = {Tier.BATCH: "flex", Tier.DEFAULT: "default", Tier.PRIORITY: "priority"}

_ROLES = {"developer": "system", "function": "tool"}


@dataclass(frozen=True, slots=True)
class Errand:
    """What a request carries whatever it asks for. ``model``: the backend's name for it; ``tier``: the best allowed."""

    request_id: str
    tenant: str
    model: str
    timeout_s: float
    tier: Tier = Tier.PRIORITY
    weight: float = 1.0


def chat(request: ChatRequest, errand: Errand) -> Generate:
    """A chat completion of a local model."""
    return Generate(
        request_id=errand.request_id,
        tenant=errand.tenant,
        model=errand.model,
        prompts=(conversation(request),),
        sampling=_sampling(request, request.most_tokens, (request.top_logprobs or 0) if request.logprobs else None),
        choices=request.n,
        constraint=_constraint(request),
        tier=tier(request, errand),
        weight=errand.weight,
        cache_key=request.prompt_cache_key,
        timeout_s=errand.timeout_s,
    )


def completion(request: CompletionRequest, errand: Errand) -> Generate:
    """A completion of a local model. The best of many are chosen by their log probabilities, so those come along."""
    logprobs = (request.logprobs or 0) if request.candidates > request.n else request.logprobs
    return Generate(
        request_id=errand.request_id,
        tenant=errand.tenant,
        model=errand.model,
        prompts=tuple(Text(prompt, request.suffix) for prompt in request.prompts),
        sampling=_sampling(request, request.max_tokens, logprobs),
        choices=request.candidates,
        echo=request.echo,
        constraint=_structure(request.structured_outputs) if request.structured_outputs else None,
        tier=tier(request, errand),
        weight=errand.weight,
        cache_key=request.prompt_cache_key,
        timeout_s=errand.timeout_s,
    )


def tier_name(tier: Tier) -> str:
    """What the answer calls the tier that it was given."""
    return _TIER_NAMES[tier]


def tier(request: Sampled, errand: Errand) -> Tier:
    """What the client asks for, but no better than it may have."""
    return max(_TIERS.get(request.service_tier or "", Tier.DEFAULT), errand.tier)


def embed(request: EmbeddingsRequest, errand: Errand) -> Embed:
    """Vectors of a local model."""
    return Embed(
        request_id=errand.request_id,
        tenant=errand.tenant,
        model=errand.model,
        inputs=request.inputs,
        dimensions=request.dimensions,
        truncate_to=request.truncate_to,
        timeout_s=errand.timeout_s,
    )


def relay(
    route: Literal["chat/completions", "completions", "embeddings"],
    body: Json,
    called: Called,
    errand: Errand,
    *,
    keep: bool = False,
    api_key: str | None = None,
) -> Relay:
    """The client's own JSON for the upstream. ``keep``: the answer is stored here, so not there as well."""
    passed = {name: value for name, value in body.items() if not (keep and name in ("store", "metadata"))}
    passed["model"] = errand.model
    if called.stream:
        passed["stream_options"] = (passed.get("stream_options") or {}) | {"include_usage": True}
    return Relay(
        request_id=errand.request_id,
        tenant=errand.tenant,
        model=errand.model,
        route=route,
        body=orjson.dumps(passed),
        stream=called.stream,
        hide_usage=called.stream and not called.streams_usage,
        api_key=api_key,
        timeout_s=errand.timeout_s,
    )


def _sampling(request: ChatRequest | CompletionRequest, max_tokens: int | None, logprobs: int | None) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        typical_p=request.typical_p,
        repeat_penalty=request.repeat_penalty,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        logit_bias=request.logit_bias,
        seed=request.seed,
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop=request.stop,
        ignore_eos=request.ignore_eos,
        logprobs=logprobs,
        **samplers(request),
    )


# --- conversations ----------------------------------------------------------------------------------------------


def conversation(request: ChatRequest) -> Chat:
    """The conversation that a request for a chat completion holds."""
    return Chat(
        messages=tuple(_message(message) for message in request.conversation),
        tools=tuple(_function(function) for function in _offered(request)),
        tool_choice=_tool_choice(request),
        parallel_tool_calls=request.parallel_tool_calls and not request.functions,
        template_options=_template_options(request),
    )


def _message(message: Message) -> Json:
    """A plain message as templates know them: developers are the system, functions are tools, no content is none."""
    plain: Json = {"role": _ROLES.get(message.role, message.role), "content": message.text or ""}
    if message.name is not None:
        plain["name"] = message.name
    match message:
        case ToolMessage():
            plain["tool_call_id"] = message.tool_call_id
        case FunctionMessage():
            plain["tool_call_id"] = _call_id(message.name)
        case AssistantMessage():
            plain |= _said(message)
    return plain


def _said(message: AssistantMessage) -> Json:
    said: Json = {"content": message.text or message.refusal or ""}
    if reasoning := message.reasoning_content or message.reasoning:
        said["reasoning_content"] = reasoning
    calls = [(call.id, call.function) for call in message.tool_calls or []]
    if message.function_call is not None:
        calls.append((_call_id(message.function_call.name), message.function_call))
    if calls:
        said["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": called.name, "arguments": called.arguments}}
            for id_, called in calls
        ]
    return said


def _call_id(function: str) -> str:
    """Calls had no ids when they were ``function_call``; the name ties an answer to its call."""
    return f"call_{function}"


def _offered(request: ChatRequest) -> list[Function]:
    """The functions the model may know of: those of an allowed set only, when there is one."""
    if isinstance(request.tool_choice, AllowedTools):
        allowed = set(request.tool_choice.names)
        return [function for function in request.callable_functions if function.name in allowed]
    return request.callable_functions


def _function(function: Function) -> Json:
    plain: Json = {"name": function.name, "parameters": function.parameters or {"type": "object", "properties": {}}}
    if function.description is not None:
        plain["description"] = function.description
    return plain | {"strict": function.strict}


def _tool_choice(request: ChatRequest) -> str:
    match request.tool_choice or request.function_call:
        case NamedFunction(function=named) | (Named() as named):
            return f"function:{named.name}"
        case AllowedTools(allowed_tools=allowed):
            return allowed.mode
        case str() as mode:
            return mode
    return "auto" if request.callable_functions else "none"


def _template_options(request: ChatRequest) -> dict[str, bool | str]:
    """What the caller set by name wins over what follows from OpenAI's parameters."""
    options: dict[str, bool | str] = {}
    if request.reasoning_effort is not None:
        options |= {"reasoning_effort": request.reasoning_effort, "enable_thinking": request.reasoning_effort != "none"}
    if request.verbosity is not None:
        options["verbosity"] = request.verbosity
    return options | request.chat_template_kwargs


# --- constraints ------------------------------------------------------------------------------------------------

_STRUCTURED = "structured_outputs"


def _constraint(request: ChatRequest) -> Constraint | None:
    if request.structured_outputs is not None:
        return _structure(request.structured_outputs)
    match request.response_format:
        case SchemaFormat(json_schema=named) if named.schema_ is not None:
            return _schema(named.schema_)
        case None | PlainFormat(type="text"):
            return None
    return Constraint("json_schema", '{"type":"object"}')


def _structure(outputs: StructuredOutputs) -> Constraint:
    if outputs.choice is not None:
        choices = " | ".join(orjson.dumps(one).decode() for one in outputs.choice)
        return Constraint("lark", f"start: {choices}", _STRUCTURED)
    if outputs.regex is not None:
        return Constraint("regex", outputs.regex, _STRUCTURED)
    if outputs.json_ is not None:
        return replace(_schema(outputs.json_), param=_STRUCTURED)
    return Constraint("grammar", outputs.grammar or "", _STRUCTURED)


def _schema(schema: Json) -> Constraint:
    return Constraint("json_schema", orjson.dumps(schema).decode())
