"""Parameters both kinds of completion have: sampling, stopping, streaming, and what ours adds to OpenAI's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from serve_app.api.wire.llama_sampling import LlamaSampling
from serve_app.api.wire.shape import Shape, limits_of, unsupported, wrong
from serve_app.api.wire.tools import Schema
from serve_app.protocol import Json

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "web_search_options": (),
    "chat_template": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "thinking_budget_tokens": (-1,),
}
"""Parameters that are known and would change the answer, with the values under which they would not."""

_STRUCTURES = {
    "grammar": "grammar",
    "json_schema": "json",
    "guided_grammar": "grammar",
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
}
"""What llama-server and older vLLM call the ways of ``structured_outputs``."""

INT32_MAX = 2**31 - 1
_MAX_OPTION_CHARS = 64
_MAX_ALTERNATIVES = 128
_TEMPLATE_OPTIONS = ("enable_thinking", "thinking", "reasoning_effort")


def _stops(stop: Any, info: ValidationInfo) -> Any:
    stops = [stop] if isinstance(stop, str) else stop
    limits = limits_of(info)
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise wrong("must be a string or an array of strings", "invalid_type")
    if len(stops) > limits.max_stop:
        raise wrong(f"must have at most {limits.max_stop} items", "array_above_max_length")
    if any(len(one) > limits.max_stop_chars for one in stops):
        raise wrong(f"must have at most {limits.max_stop_chars} characters each", "string_above_max_length")
    if not all(stops):
        raise wrong("must not be empty", "string_below_min_length")
    return tuple(stops)


def _biases(bias: Any, info: ValidationInfo) -> Any:
    if not isinstance(bias, dict):
        raise wrong("must be an object", "invalid_type")
    if len(bias) > (most := limits_of(info).max_logit_bias):
        raise wrong(f"must have at most {most} entries", "object_above_max_properties")
    return tuple((_token_id(token), _bias(value)) for token, value in bias.items())


def _token_id(token: str) -> int:
    if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) <= INT32_MAX):
        raise wrong("must have token ids as keys")
    return int(token)


def _bias(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -100 <= value <= 100:
        raise wrong("must have numbers from -100 to 100 as values")
    return float(value)


def _pairs(metadata: Json) -> Json:
    if len(metadata) > 16:
        raise wrong("must have at most 16 entries", "object_above_max_properties")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(value) > 512 or len(key) > 64:
            raise wrong("must have keys of at most 64 and strings of at most 512 characters as values")
    return metadata


def _known_options(options: Json) -> Json:
    for name, value in options.items():
        if name not in _TEMPLATE_OPTIONS:
            raise unsupported(f"may only have {', '.join(_TEMPLATE_OPTIONS)}")
        if not isinstance(value, bool) and not (isinstance(value, str) and len(value) <= _MAX_OPTION_CHARS):
            raise wrong("must have true, false or a short string as values", "invalid_type")
    return options


Stop = Annotated[tuple[str, ...], BeforeValidator(_stops)]
LogitBias = Annotated[tuple[tuple[int, float], ...], BeforeValidator(_biases)]
Metadata = Annotated[Json, AfterValidator(_pairs)]
TemplateOptions = Annotated[Json, AfterValidator(_known_options)]
TokenId = Annotated[int, Field(ge=0, le=INT32_MAX)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1, le=INT32_MAX)]


class StreamOptions(Shape):
    include_usage: bool = False
    include_obfuscation: bool = False


class StructuredOutputs(Shape):
    """Exactly one of four ways to say what the answer must look like; ``grammar`` is one in GBNF or Lark."""

    choice: list[Annotated[str, Field(min_length=1, max_length=1024)]] | None = Field(
        None, min_length=1, max_length=_MAX_ALTERNATIVES
    )
    regex: str | None = Field(None, min_length=1, max_length=4096)
    json_: Schema | None = Field(None, alias="json")
    grammar: str | None = Field(None, min_length=1, max_length=65536)

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        if sum(way is not None for way in (self.choice, self.regex, self.json_, self.grammar)) != 1:
            raise wrong("must have exactly one of 'choice', 'regex', 'json', 'grammar'")
        return self


class Called(Shape):
    """What every request for a completion says, whoever answers it: enough to find the model and keep the books."""

    model: str = Field(min_length=1, max_length=512)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None

    @property
    def streams_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def streams_padding(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_obfuscation

    @model_validator(mode="after")
    def _options_of_a_stream(self) -> Called:
        if self.stream_options is not None and not self.stream:
            raise wrong("is only allowed when 'stream' is true", at="stream_options")
        return self


class Sampled(Called, LlamaSampling):
    """How a local model is to choose its tokens. Ranges are OpenAI's; the extras have those of llama.cpp."""

    temperature: float = Field(1.0, ge=0, le=2)
    top_p: Share = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: LogitBias = ()
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stop = ()
    n: int = 1
    top_k: int = Field(0, ge=-1, le=INT32_MAX)
    min_p: Share = 0.0
    typical_p: Share = 1.0
    repeat_penalty: float = Field(1.0, gt=0, le=10)
    min_tokens: int = Field(0, ge=0, le=INT32_MAX)
    ignore_eos: bool = False
    structured_outputs: StructuredOutputs | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None

    @field_validator("n")
    @classmethod
    def _choices(cls, n: int, info: ValidationInfo) -> int:
        return choices(n, info)

    @model_validator(mode="before")
    @classmethod
    def _one_structure(cls, data: Any) -> Any:
        given = [name for name in _STRUCTURES if isinstance(data, dict) and data.get(name) not in (None, "")]
        if not given:
            return data
        if len(given) > 1 or data.get("structured_outputs"):
            raise wrong("cannot be combined with another form of output", at=given[0])
        return data | {"structured_outputs": {_STRUCTURES[given[0]]: data[given[0]]}}

    @model_validator(mode="before")
    @classmethod
    def _nothing_unsupported(cls, data: Any) -> Any:
        for name, harmless in UNSUPPORTED.items():
            if isinstance(data, dict) and data.get(name) is not None and data[name] not in harmless:
                raise unsupported("is not supported by this model", at=name)
        return data


def choices(n: int, info: ValidationInfo) -> int:
    """``n``, if one request may ask for that many choices."""
    if n < 1:
        raise wrong("must be at least 1", "integer_below_min_value")
    if n > (most := limits_of(info).max_choices):
        raise wrong(f"must be at most {most}", "integer_above_max_value")
    return n
