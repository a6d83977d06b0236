"""ChatTemplate: sandboxed Jinja -> segments. Only what the template itself wrote may become control tokens.

A chat template is code from a model file, and messages are text from strangers. The template runs in an immutable
sandbox without loaders, and is rendered once at load in a process of its own under memory and time limits. Messages
are *defused* before rendering: a mark, one character that no text has, breaks everything in them that reads like one
of the vocabulary's control tokens. After rendering, the text falls apart at the marks and each part is tokenized by
itself: no part holds a control token that the template did not write, whatever the template cut, joined or trimmed.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROBE_TIMEOUT_S = 10
_PROBE_MEMORY = 1 << 30
CALLED_NAME = "get_weather"
CALLED = {
    "name": CALLED_NAME,
    "description": "The weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
_CALL = {"name": CALLED_NAME, "arguments": {"city": "Rome"}}
CALLING: list[dict[str, Any]] = [
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "a1b2c3d4e", "type": "function", "function": _CALL}]},
    {"role": "tool", "tool_call_id": "a1b2c3d4e", "name": CALLED_NAME, "content": "t"},
]
"""A function, and a conversation in which it is called."""

_PROBE = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]

_MARK = "\ufdd0"
"""A noncharacter, reserved by Unicode for uses like this. One in a message is lost and does no harm."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""For models whose file carries no template."""


class TemplateError(Exception):
    """The template cannot say these messages; the message is the template's own complaint, one line."""


@dataclass(frozen=True, slots=True)
class Segment:
    """``special``: control tokens written in ``text`` are control tokens."""

    text: str
    special: bool


class ChatTemplate:
    """One model's template. ``controls``: the vocabulary's control tokens as written."""

    def __init__(
        self,
        source: str,
        *,
        controls: Iterable[str],
        bos: str,
        eos: str,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        environment = _environment(now)
        self._template = environment.from_string(source)
        self._named = {"bos_token": bos, "eos_token": eos}
        written = {text for text in controls if len(text) > 1}
        self._controls = re.compile("|".join(map(re.escape, written)) or r"(?!)")
        self._first = re.compile("|".join({re.escape(text[0]) for text in written}) or r"(?!)")
        self._beginnings = frozenset(text[:size] for text in written for size in range(1, len(text)))
        self._longest = max(map(len, written), default=1)
        self.knows_tools = "tools" in jinja2.meta.find_undeclared_variables(environment.parse(source))

    def segments(
        self, messages: Iterable[Mapping[str, Any]], *, tools: list[Any] | None = None, **options: Any
    ) -> list[Segment]:
        """The conversation up to where the assistant speaks. Raises TemplateError for what the template refuses."""
        try:
            text = self._template.render(
                messages=[self._defuse(message) for message in messages],
                tools=self._defuse(tools),
                add_generation_prompt=True,
                **self._named,
                **self._defuse(options),
            )
        except jinja2.TemplateError as error:
            raise TemplateError(" ".join(str(error).split())[:200]) from error
        except Exception as error:  # the template is a stranger's program
            raise TemplateError("the messages do not have the form that the model's template expects") from error
        return [Segment(part, special=True) for part in text.split(_MARK) if part]

    def _defuse(self, value: Any) -> Any:
        """A copy in which a mark breaks every control token written out, and half a one at the end of a text."""
        if isinstance(value, str):
            text = self._first.sub(self._break, value)
            half = any(text[-size:] in self._beginnings for size in range(1, self._longest))
            return text + _MARK if half else text
        if isinstance(value, Mapping):
            return {self._defuse(key): self._defuse(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._defuse(item) for item in value]
        return value

    def _break(self, first: re.Match[str]) -> str:
        begins = self._controls.match(first.string, first.start())
        return first.group() + _MARK if begins else first.group()


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # accepted, not obeyed: the marks must survive
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face's: no HTML escaping, non-ASCII kept."""
    return json.dumps(value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys)


def probe(source: str, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Render a template once in a process with 1 GiB and limited time. None when it behaves, else what is wrong."""
    command = [sys.executable, "-c", "from serve_app.engine.template import probe_child; probe_child()"]
    try:
        done = subprocess.run(  # noqa: S603 (our own interpreter and code; the template comes by standard input)
            command, input=source.encode(), capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"its chat template does not finish within {timeout_s:g} s"
    return None if done.returncode == 0 else "its chat template is broken or uses more than 1 GiB"


def probe_child() -> None:
    """The child's side of ``probe``: a complaint of the template about the messages is fine, a crash is not."""
    source = sys.stdin.buffer.read().decode()
    resource.setrlimit(resource.RLIMIT_AS, (_PROBE_MEMORY, _PROBE_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (PROBE_TIMEOUT_S, PROBE_TIMEOUT_S))
    template = ChatTemplate(source, controls=(), bos="", eos="")
    try:
        template.segments(_PROBE)
    except TemplateError:
        template.segments(_PROBE[1:])
    with suppress(TemplateError):
        template.segments(CALLING, tools=[{"type": "function", "function": CALLED}])
