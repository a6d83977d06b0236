"""Answers that must have a form: JSON schemas, patterns and calls of tools."""

from __future__ import annotations

import asyncio
import json
import re

import jsonschema
import pytest

from serve_app.engine.backend import LocalBackend
from serve_app.protocol import Constraint, Failed, FailureCode
from tests.engine.asking import Answer, ask, chat, request
from tests.engine.schemas import record, schemas

pytestmark = pytest.mark.asyncio(loop_scope="session")


def schema(source: object) -> Constraint:
    return Constraint("json_schema", json.dumps(source))


@pytest.mark.timeout(300)
async def test_every_answer_to_two_hundred_schemas_fits_or_was_cut(backend: LocalBackend) -> None:
    sources = schemas(200)
    wanted = [
        request(chat("Give me an example."), n=24, temperature=1.0, seed=at, constraint=schema(source))
        for at, source in enumerate(sources)
    ]
    answers = await asyncio.gather(*(ask(backend, one) for one in wanted))
    whole = 0
    for source, answer in zip(sources, answers, strict=True):
        assert answer.finish() in ("stop", "length"), source
        if answer.finish() == "stop":
            jsonschema.validate(json.loads(answer.text()), source, format_checker=jsonschema.FormatChecker())
            whole += 1
    assert whole > 0.5 * len(sources)


@pytest.mark.parametrize("hard", [{"temperature": 2.0}, {"logit_bias": ((0, 100.0), (2, 100.0))}, {"min_tokens": 30}])
async def test_a_schema_holds_against_every_other_wish(backend: LocalBackend, hard: dict[str, object]) -> None:
    source = {"enum": ["red", "green"]}
    answer = await ask(backend, request("Colour:", n=8, seed=1, constraint=schema(source), **hard))  # type: ignore[arg-type]
    assert json.loads(answer.text()) in ("red", "green")
    assert answer.finish() == "stop"


async def test_choices_walk_their_grammar_apart(backend: LocalBackend) -> None:
    constraint = schema({"type": "integer", "minimum": 100, "maximum": 999})
    answer = await ask(backend, request("n:", n=8, choices=4, temperature=2.0, seed=3, constraint=constraint))
    assert all(100 <= int(answer.text(at)) <= 999 for at in range(4))


async def test_a_pattern_is_kept(backend: LocalBackend) -> None:
    answer = await ask(backend, request("Phone:", n=12, constraint=Constraint("regex", "[0-9]{3}-[0-9]{4}")))
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", answer.text())


@pytest.mark.parametrize(
    "constraint",
    [
        schema({"type": "nonsense"}),
        schema([1]),
        Constraint("json_schema", "{"),
        schema({"type": "string", "pattern": "("}),
        schema({"$ref": "http://127.0.0.1:1/x"}),
        schema({"type": "integer", "minimum": 5, "maximum": 3}),
        Constraint("regex", "(" * 20_000),
        Constraint("lark", "start: nothing"),
        schema({"enum": ["x" * 70_000]}),
        schema({"a": "b" * 10} | {"type": "object", "properties": {"x": {"$ref": "#/$defs/none"}}}),
    ],
)
async def test_a_form_that_cannot_be_enforced_is_refused_before_anything_starts(
    backend: LocalBackend, constraint: Constraint
) -> None:
    answer = await ask(backend, request("x", n=2, constraint=constraint))
    assert isinstance(answer.end, Failed)
    assert answer.end.code is FailureCode.INVALID_REQUEST
    assert len(answer.events) == 1
    assert "\n" not in answer.end.message


WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": record(city={"type": "string", "maxLength": 10}),
}
NO_ARGUMENTS = {"name": "get_time"}


def _check_call(answer: Answer, names: set[str]) -> None:
    calls = answer.calls()
    assert calls
    assert answer.text() == ""
    assert answer.finish() == "tool_calls"
    for at, call in enumerate(calls):
        assert call.index == at
        assert call.name in names
        assert call.id
        assert call.id.startswith("call_")
        if call.name == "get_weather":
            jsonschema.validate(json.loads(call.arguments), WEATHER["parameters"])
    assert len({call.id for call in calls}) == len(calls)


async def test_a_forced_call_can_be_parsed(backend: LocalBackend) -> None:
    tools = (WEATHER, NO_ARGUMENTS)
    for choice, names in (("function:get_weather", {"get_weather"}), ("required", {"get_weather", "get_time"})):
        asked = chat("Weather in Rome?", tools=tools, tool_choice=choice, parallel_tool_calls=False)
        _check_call(await ask(backend, request(asked, n=70, temperature=0.7, seed=2)), names)


async def test_no_call_is_made_where_none_is_wanted(backend: LocalBackend) -> None:
    asked = chat(
        'Say: <tool_call>{"name": "get_weather", "arguments": {}}</tool_call>', tools=(WEATHER,), tool_choice="none"
    )
    answer = await ask(backend, request(asked, n=30))
    assert answer.calls() == []
    assert answer.finish() in ("stop", "length")
