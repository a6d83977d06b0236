"""How models write calls of tools: a table of families, and which of them a model's template belongs to.

A template is of the family that can read back the call it writes. A template that writes calls no family can read, or
knows no tools at all, gets them described in the system message, in the generic family's words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from serve_app.engine.reasoning import TAGS, Tags
from serve_app.engine.replies import CallReader
from serve_app.engine.syntax import Syntax
from serve_app.engine.template import CALLED, CALLED_NAME, CALLING, ChatTemplate, TemplateError

_GAP = r"\s{0,32}"
_OBJECT = (
    rf'{_GAP}\{{{_GAP}"name"{_GAP}:{_GAP}"([^"\\]{{1,64}})"{_GAP},{_GAP}"(?:arguments|parameters)"{_GAP}:{_GAP}(?=\{{)'
)
_NAMED = rf"{_GAP}([\w-]{{1,64}}){_GAP}(?:\[CALL_ID\]\w{{0,64}})?{_GAP}(?:\[ARGS\])?{_GAP}(?=\{{)"

HERMES = Syntax(
    name="hermes",
    opening="<tool_call>",
    head='\n{"name": "NAME", "arguments": ',
    tail="}\n</tool_call>",
    between="\n<tool_call>",
    reads=re.compile(_OBJECT),
    marks=("</tool_call>",),
)
"""Hermes, Qwen 2.5 and 3, and the generic one: what most models have seen."""

LLAMA = Syntax(
    name="llama 3",
    opening="<|python_tag|>",
    head='{"name": "NAME", "parameters": ',
    tail="}",
    between=None,
    reads=re.compile(_OBJECT),
    marks=(";", ","),
    repeats=True,
    bare=True,
)

MISTRAL = Syntax(
    name="mistral",
    opening="[TOOL_CALLS]",
    begin="[",
    head='{"name": "NAME", "arguments": ',
    tail="}",
    between=", ",
    end="]",
    reads=re.compile(_GAP + r"\[?" + _OBJECT),
    marks=(",", "]"),
    repeats=True,
)

MISTRAL_NAMED = Syntax(
    name="mistral, named",
    opening="[TOOL_CALLS]",
    head="NAME[ARGS]",
    tail="",
    between="[TOOL_CALLS]",
    reads=re.compile(_NAMED),
    marks=(),
    controls=("[ARGS]", "[CALL_ID]"),
    wrapped=False,
)
"""Since tokenizer version 11: Mistral Small 3.2, Devstral, Ministral 3."""

_UNFINISHED_WORD = re.compile(r"[^\s>\]]*\Z")
"""A prompt that opens reasoning and a turn that opens a call share a bracket."""

FAMILIES = (HERMES, MISTRAL, MISTRAL_NAMED, LLAMA)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a model's template says about its answers. ``native``: it describes tools itself."""

    syntax: Syntax = HERMES
    native: bool = False
    tags: Tags | None = None

    @property
    def controls(self) -> tuple[str, ...]:
        """Tokens that are control tokens in some vocabularies, and part of what an answer says."""
        tools = (self.syntax.opening, *self.syntax.controls) if self.native else ()
        return (*tools, *((self.tags.open, self.tags.close) if self.tags else ()))


def dialect(template: ChatTemplate, source: str) -> Dialect:
    """Found by experiment: the template writes a call, and each family tries to read it."""
    tags = next((tags for tags in TAGS if tags.open in source or tags.close in source), None)
    written = _written_call(template) if template.knows_tools else None
    for syntax in FAMILIES if written else ():
        if _reads(syntax, written or ""):
            return Dialect(syntax, native=True, tags=tags)
    return Dialect(tags=tags)


def _written_call(template: ChatTemplate) -> str | None:
    """The assistant's turn with a call, as the template writes it; None when it does not tell of tools."""
    tool = {"type": "function", "function": CALLED}
    try:
        asked, answered = (
            "".join(segment.text for segment in template.segments(messages, tools=[tool]))
            for messages in (CALLING[:-2], CALLING)
        )
    except TemplateError:
        return None
    if CALLED_NAME not in asked:
        return None
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, answered, strict=False)))
    return answered[len(_UNFINISHED_WORD.sub("", answered[:shared])) :]


def _reads(syntax: Syntax, written: str) -> bool:
    _, calls = CallReader(syntax, frozenset({CALLED_NAME}), lambda: "").read(written, final=True)
    return [call.name for call in calls] == [CALLED_NAME]
