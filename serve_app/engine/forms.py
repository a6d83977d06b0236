"""What an answer must look like, as grammars: output formats, calls of tools, and the reasoning before them.

The grammars are llguidance's. A lazy lexeme ends as soon as it matches: text runs free until a call's opening is
written, and from there on the call is held to its schema. After calls nothing follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.engine.compiler import GrammarError
from serve_app.engine.families import Dialect
from serve_app.engine.reasoning import Tags, Thinking
from serve_app.engine.syntax import Syntax
from serve_app.protocol import Chat, Constraint, Json

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Small models left free to write white space write nothing else for long stretches."""

_ANY = r"(.|\n)*"
_BARE_START = '{"name": "'


@dataclass(frozen=True, slots=True)
class Form:
    """A grammar in llguidance's own JSON, and the request's parameter that asked for it."""

    source: str
    param: str


def forms(chat: Chat | None, output: Constraint | None, dialect: Dialect, thinking: Thinking) -> tuple[Form, ...]:
    """The grammars of an answer, strictest first: the next stands in for one that cannot be compiled. None: free.

    Schemas of functions that are not ``strict`` are kept as far as llguidance knows them, and given up, but for their
    being objects, where it refuses them. Raises GrammarError.
    """
    chosen = _chosen(chat) if chat else ()
    reasoning = (dialect.tags, thinking) if dialect.tags and thinking is not Thinking.NEVER else None
    if chat is None or not chosen:
        return (Form(_answer(output, reasoning), output.param),) if output else ()
    exact = _calls(chat, chosen, output, dialect.syntax, reasoning)
    if all(tool.get("strict") for tool in chosen):
        return (Form(exact, "tools"),)
    loose = tuple(tool if tool.get("strict") else {"name": tool["name"]} for tool in chosen)
    return Form(exact, "tools"), Form(_calls(chat, loose, output, dialect.syntax, reasoning), "tools")


def _chosen(chat: Chat) -> tuple[Json, ...]:
    """The functions that may be called."""
    if chat.tool_choice == "none":
        return ()
    name = chat.tool_choice.removeprefix("function:") if chat.tool_choice.startswith("function:") else None
    return tuple(tool for tool in chat.tools if name in (None, tool["name"]))


def _answer(output: Constraint, reasoning: tuple[Tags, Thinking] | None) -> str:
    if reasoning is None:
        return json.dumps({"grammars": [_grammar(output)]})
    start, rules = _with_reasoning("@answer", reasoning)
    return _joined([start, *rules], output)


def _calls(
    chat: Chat,
    tools: tuple[Json, ...],
    output: Constraint | None,
    syntax: Syntax,
    reasoning: tuple[Tags, Thinking] | None,
) -> str:
    forced = chat.tool_choice != "auto"
    many = chat.parallel_tool_calls and not chat.tool_choice.startswith("function:")
    rules = list(_call_rules(syntax, tools, many=many))
    if forced:
        begin = "calls" if syntax.bare else f"{_text(syntax.opening)} calls"
    elif output is not None:
        begin = f"@answer | {_text(syntax.opening)} calls" + (" | calls" if syntax.bare else "")
    else:
        begin = "PLAIN | opened calls" + (" | bare" if syntax.bare else "")
        rules += [f"opened[lazy]: PLAIN {_text(syntax.opening)}", _plain(reasoning)]
        rules += _bare_rules(syntax, tools) if syntax.bare else []
    start, thinking = _with_reasoning(begin, reasoning)
    return _joined([start, *thinking, *rules], None if forced else output)


def _call_rules(syntax: Syntax, tools: tuple[Json, ...], *, many: bool) -> Iterable[str]:
    again = f"({_text(syntax.between)} call)*" if many and syntax.between is not None else ""
    yield f"calls: {_text(syntax.begin)} call {again} {_text(syntax.end)}"
    yield "call: " + " | ".join(f"call{at}" for at in range(len(tools)))
    for at, tool in enumerate(tools):
        yield f"call{at}: {_text(syntax.head.replace('NAME', tool['name']))} args{at} {_text(syntax.tail)}"
        yield f"args{at}: %json {json.dumps(_schema(tool))}"


def _bare_rules(syntax: Syntax, tools: tuple[Json, ...]) -> Iterable[str]:
    """A call without an opening, told from text by how it starts."""
    heads = [syntax.head.replace("NAME", tool["name"]).removeprefix(_BARE_START) for tool in tools]
    yield "bare_start[lazy]: /[ \\n]*/ " + _text(_BARE_START)
    calls = " | ".join(f"{_text(head)} args{at} {_text(syntax.tail)}" for at, head in enumerate(heads))
    yield f"bare: bare_start ({calls})"


def _plain(reasoning: tuple[Tags, Thinking] | None) -> str:
    """Text without a call. Where it could be reasoning it is not plain text: a call is no call in there."""
    if reasoning is None or reasoning[1] is not Thinking.MAY:
        return f"PLAIN: /{_ANY}/"
    return f"PLAIN: /{_ANY}/ & ~(/[ \\n]*/ {_text(reasoning[0].open)} /{_ANY}/)"


def _with_reasoning(begin: str, reasoning: tuple[Tags, Thinking] | None) -> tuple[str, list[str]]:
    if reasoning is None:
        return f"start: {begin}", []
    tags, state = reasoning
    opened = state is Thinking.OPENED
    start = f"start: thinking GAP ({begin})" if opened else f"start: (thinking GAP)? ({begin})"
    before = "" if opened else f"/[ \\n]*/ {_text(tags.open)} "
    return start, [f"thinking[lazy]: {before}/{_ANY}/ {_text(tags.close)}", "GAP: /[ \\n]{0,4}/"]


def _joined(lines: list[str], output: Constraint | None) -> str:
    main = {"name": "main", "lark_grammar": "\n".join(lines)}
    return json.dumps({"grammars": [main, {**_grammar(output), "name": "answer"}] if output else [main]})


def _grammar(output: Constraint) -> Json:
    """GBNF is converted where it is compiled: that too is work on a stranger's text."""
    match output.kind:
        case "json_schema":
            return {"json_schema": _with_options(_parsed(output.source), {})}
        case "regex":
            return {"lark_grammar": f"start: /{_escaped(output.source)}/"}
        case kind:
            return {"lark_grammar" if kind == "lark" else "grammar": output.source}


def _parsed(source: str) -> Json:
    try:
        schema = json.loads(source)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise GrammarError("the schema is not a JSON object")
    return schema


def _schema(tool: Json) -> Json:
    lenient = {} if tool.get("strict") else {"lenient": True}
    return _with_options({"type": "object", **(tool.get("parameters") or {})}, lenient)


def _with_options(schema: Json, options: Json) -> Json:
    theirs = schema.get("x-guidance")
    return {**schema, "x-guidance": {**_COMPACT, **options, **(theirs if isinstance(theirs, dict) else {})}}


def _escaped(regex: str) -> str:
    """A pattern as Lark writes it: between slashes, on one line."""
    escaped, backslash = [], False
    for character in regex:
        bare_slash = character == "/" and not backslash
        escaped.append("\\/" if bare_slash else "\\n" if character == "\n" else character)
        backslash = character == "\\" and not backslash
    return "".join(escaped)


def _text(literal: str | None) -> str:
    return json.dumps(literal) if literal else ""
