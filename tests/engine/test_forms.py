"""What answers may look like: each form accepts whole answers of its kind, and nothing else."""

from __future__ import annotations

import pytest

from serve_app.engine.compiler import Compiler, GrammarError, Vocabulary
from serve_app.engine.families import HERMES, LLAMA, MISTRAL, MISTRAL_NAMED, Dialect
from serve_app.engine.forms import forms
from serve_app.engine.reasoning import TAGS, Thinking
from serve_app.protocol import Chat, Constraint

COMPILER = Compiler(Vocabulary([b"", *(bytes([byte]) for byte in range(256))], [0]))

SHARED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/n"}},
    "$defs": {"n": {"type": "integer"}},
    "required": ["a"],
}
TOOLS = ({"name": "f", "parameters": SHARED}, {"name": "g", "strict": True, "parameters": {"type": "object"}})
OBJECT = Constraint("json_schema", '{"type": "object"}')
MAY, OPENED = Thinking.MAY, Thinking.OPENED
THINKS = Dialect(HERMES, native=True, tags=TAGS[0])

H = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
L = '{"name": "f", "parameters": {"a": 1}}'
M = '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]'
N = '[TOOL_CALLS]f[ARGS]{"a": 1}'
CUT = H.replace("1}", '"x"}')


def chat(choice: str = "auto", *, many: bool = True, tools: tuple[dict[str, object], ...] = TOOLS) -> Chat:
    return Chat(({"role": "user", "content": "x"},), tools, choice, many)


def accepts(wanted: tuple[object, ...], text: str) -> bool:
    matcher = COMPILER.compile(forms(*wanted)[0].source)  # type: ignore[arg-type]
    tokens = [byte + 1 for byte in text.encode()]
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


FORMS = {
    "may call": (
        (chat(), None, Dialect(), Thinking.NEVER),
        ["hi", "", f"hi {H}", f"{H}\n{H}"],
        [f"{H}x", CUT, "<tool_call>"],
    ),
    "one call": ((chat(many=False), None, Dialect(), Thinking.NEVER), ["hi", H], [f"{H}\n{H}"]),
    "must call": ((chat("required"), None, Dialect(), Thinking.NEVER), [H, f"{H}\n{H}"], ["hi", f"hi{H}"]),
    "must call f": (
        (chat("function:f"), None, Dialect(), Thinking.NEVER),
        [H],
        ["hi", f"{H}\n{H}", H.replace("f", "g")],
    ),
    "must not call": ((chat("none"), OBJECT, Dialect(), Thinking.NEVER), ['{"a": 1}'], ["hi", H]),
    "object or call": ((chat(), OBJECT, Dialect(), Thinking.NEVER), ['{"a": 1}', H], ["hi"]),
    "llama may": (
        (chat(), None, Dialect(LLAMA, True), Thinking.NEVER),
        ["hi", L, f"<|python_tag|>{L}", '{"x"'],
        [L + L],
    ),
    "llama must": ((chat("required"), None, Dialect(LLAMA, True), Thinking.NEVER), [L], ["hi", f"{L}; {L}"]),
    "mistral may": ((chat(), None, Dialect(MISTRAL, True), Thinking.NEVER), ["hi", M], [f"{M}x", "[TOOL_CALLS]x"]),
    "mistral must": ((chat("required"), None, Dialect(MISTRAL, True), Thinking.NEVER), [M], ["hi"]),
    "named may": ((chat(), None, Dialect(MISTRAL_NAMED, True), Thinking.NEVER), ["hi", N, N + N], [f"{N}x"]),
    "named must": ((chat("function:f"), None, Dialect(MISTRAL_NAMED, True), Thinking.NEVER), [N], ["hi", N + N]),
    "thinks, may call": (
        (chat(), None, THINKS, MAY),
        ["hi", H, f"<think>{CUT}</think>\n\nhi", f"<think>x</think>\n\n{H}"],
        ["<think>", f"<think>{H}"],
    ),
    "is thinking": ((chat(), None, THINKS, OPENED), [f"a {CUT}</think>hi", f"</think>\n\n{H}"], ["hi", H]),
    "thinks, must call": ((chat("required"), None, THINKS, OPENED), [f"a</think>\n{H}"], [H, "a</think>hi"]),
    "thinks, object": ((chat(tools=()), OBJECT, THINKS, MAY), ['{"a": 1}', '<think>{</think>{"a": 1}'], ["<think>{}"]),
    "pattern": ((None, Constraint("regex", "a/b\\/c\n"), Dialect(), Thinking.NEVER), ["a/b/c\n"], ["a/b/c"]),
    "GBNF": ((None, Constraint("grammar", 'root ::= "a" [0-9]+'), Dialect(), Thinking.NEVER), ["a12"], ["a"]),
    "Lark": ((None, Constraint("grammar", 'start: "a" /[0-9]+/'), Dialect(), Thinking.NEVER), ["a12"], ["a"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_accepts_its_answers_and_nothing_else(name: str) -> None:
    wanted, answers, others = FORMS[name]
    assert [text for text in answers if not accepts(wanted, text)] == []
    assert [text for text in others if accepts(wanted, text)] == []


def test_an_answer_without_wishes_is_free() -> None:
    assert forms(chat(tools=()), None, THINKS, MAY) == ()
    assert forms(chat("none"), None, Dialect(), Thinking.NEVER) == ()


def test_a_schema_that_cannot_be_kept_is_given_up_unless_it_is_strict() -> None:
    odd = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"$ref": "http://x/y"}}}}
    exact, loose = forms(chat(tools=(odd,)), None, Dialect(), Thinking.NEVER)
    with pytest.raises(GrammarError):
        COMPILER.compile(exact.source)
    COMPILER.compile(loose.source)
    (only,) = forms(chat(tools=({**odd, "strict": True},)), None, Dialect(), Thinking.NEVER)
    assert only.param == "tools"
    with pytest.raises(GrammarError):
        COMPILER.compile(only.source)
