"""Compiling strangers' grammars: within a budget, once, and at nobody else's cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator

import numpy as np
import pytest

from serve_app.engine.compiler import BUDGET_S, GrammarError
from serve_app.engine.grammar import MAX_SOURCE_BYTES, GrammarMask, Grammars

PIECES = [b"", *(bytes([byte]) for byte in range(256)), b"true", b"fal"]
END = 0


class Vocabulary:
    """As much of a Llama as grammars look at: every byte is a token, and 0 ends."""

    pieces = PIECES
    eos = END
    end_tokens = frozenset({END})


@pytest.fixture
def grammars() -> Iterator[Grammars]:
    made = Grammars(Vocabulary())  # type: ignore[arg-type]
    yield made
    made.close()


def schema(source: object) -> str:
    return json.dumps({"grammars": [{"json_schema": source}]})


def lark(source: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": source}]})


SLOW = {"type": "integer", "multipleOf": 999_983}
HOSTILE = {
    "minutes": schema(SLOW),
    "gigabytes": schema({"allOf": [{"type": "integer", "multipleOf": n} for n in (999_983, 999_979, 999_961)]}),
    "deep": lark("start: " + "(" * 20_000 + '"a"' + ")" * 20_000),
    "deep schema": '{"grammars": [{"json_schema": ' + '{"items":' * 2_000 + "{}" + "}" * 2_000 + "}]}",
    "deep pattern": lark("start: /" + "(" * 20_000 + "/"),
    "large": schema({"enum": ["x" * MAX_SOURCE_BYTES]}),
    "broken GBNF": json.dumps({"grammars": [{"grammar": "root ::= ("}]}),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_cannot_be_compiled_in_time_is_refused(grammars: Grammars, name: str) -> None:
    with pytest.raises(GrammarError) as caught:
        await grammars.compile(HOSTILE[name], "t")
    assert "\n" not in str(caught.value)
    await grammars.compile(schema({"type": "boolean"}), "t")


async def test_a_refusal_is_remembered(grammars: Grammars) -> None:
    for _ in range(2):
        began_s = time.monotonic()
        with pytest.raises(GrammarError):
            await grammars.compile(schema(SLOW), "t")
    assert time.monotonic() - began_s < BUDGET_S / 10


async def test_a_hostile_tenant_holds_up_nobody_else(grammars: Grammars) -> None:
    await asyncio.gather(*(grammars.compile(schema({"const": n}), f"{n}") for n in range(4)))  # both trials run
    attacks = [asyncio.create_task(grammars.compile(schema({**SLOW, "minimum": n}), "hostile")) for n in range(8)]
    try:
        for n in range(20):
            await grammars.compile(schema({"const": f"{n}"}), f"{n}")
        assert not any(attack.done() for attack in attacks)
    finally:
        for attack in attacks:
            attack.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)


async def test_the_event_loop_runs_on_while_a_grammar_is_tried(grammars: Grammars) -> None:
    await grammars.compile(schema({}), "t")
    attempt = asyncio.create_task(grammars.compile(schema(SLOW), "t"))
    turns = 0
    while not attempt.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert isinstance(attempt.exception(), GrammarError)
    assert turns > 50


async def test_many_grammars_are_forgotten_and_compiled_again(grammars: Grammars) -> None:
    await asyncio.gather(*(grammars.compile(schema({"const": n}), f"{n}") for n in range(300)))
    mask = (await grammars.compile(schema({"const": 7}), "t"))()
    assert written(mask) == "7"


async def test_closed_grammars_leave_no_process_behind() -> None:
    made = Grammars(Vocabulary())  # type: ignore[arg-type]
    await made.compile(schema({}), "t")
    processes = [trial._process for trial in made._trials if trial._process]
    assert processes
    made.close()
    assert all(process.poll() is not None for process in processes)


def written(mask: GrammarMask | object) -> str:
    """What is left when always the first allowed token is taken."""
    text, logits = b"", np.zeros(len(PIECES), dtype=np.float32)
    assert isinstance(mask, GrammarMask)
    while mask.apply(logits) and int(logits.argmax()) != END:
        token = int(logits.argmax())
        mask.accept(token)
        text += PIECES[token]
        logits[:] = 0
    return text.decode()


async def test_choices_walk_apart_and_a_mask_says_when_it_is_complete(grammars: Grammars) -> None:
    fresh = await grammars.compile(schema({"enum": [True, False]}), "t")
    first, second = fresh(), fresh()
    first.accept(PIECES.index(b"fal"))
    assert not first.complete
    assert written(first) == "se"
    assert first.complete
    assert written(second) == "false"


async def test_a_mask_that_hits_a_limit_allows_nothing_and_is_not_complete(grammars: Grammars) -> None:
    mask = (await grammars.compile(schema({"type": "boolean"}), "t"))()
    mask.accept(PIECES.index(b"x"))
    assert not mask.apply(np.zeros(len(PIECES), dtype=np.float32))
    assert not mask.complete
