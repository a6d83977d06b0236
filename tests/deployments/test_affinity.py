"""Requests go where their prefix is, as long as that keeps nobody waiting."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deployments.affinity import Memory, choose, prefixes_of
from serve_app.protocol import Chat, Embed, Generate, Text

SYSTEM = {"role": "system", "content": "You are brief."}


def chat(*contents: str, tenant: str = "t", **more: Any) -> Generate:
    messages = [SYSTEM, *({"role": "user", "content": content} for content in contents)]
    return Generate("r", tenant, "m", (Chat(tuple(messages)),), **more)


def test_the_next_turn_of_a_conversation_finds_the_replica_of_the_turn_before() -> None:
    memory: Memory[str] = Memory()
    memory.add(prefixes_of(chat("Hello", "Who are you?")), "left")
    memory.add(prefixes_of(chat("Goodbye")), "right")
    assert memory.find(prefixes_of(chat("Hello", "Who are you?", "Really?"))) == "left"
    assert memory.find(prefixes_of(chat("Hello", "What?"))) == "left"
    assert memory.find(prefixes_of(chat("Goodbye", "Wait"))) == "right"


def test_prefixes_of_another_tenant_are_none() -> None:
    memory: Memory[str] = Memory()
    memory.add(prefixes_of(chat("Hello", tenant="ann")), "left")
    assert memory.find(prefixes_of(chat("Hello", tenant="bob"))) is None


def test_a_raw_prompt_is_known_by_its_beginning() -> None:
    memory: Memory[str] = Memory()
    text = "Once upon a time. " * 100
    memory.add(prefixes_of(Generate("r", "t", "m", (Text(text),))), "left")
    assert memory.find(prefixes_of(Generate("r", "t", "m", (Text(text + "The end."),)))) == "left"
    assert memory.find(prefixes_of(Generate("r", "t", "m", (Text("Twice upon a time."),)))) is None


def test_a_named_conversation_stays_together_though_its_text_changes() -> None:
    memory: Memory[str] = Memory()
    memory.add(prefixes_of(Generate("r", "t", "m", (Text("One"),), cache_key="c")), "left")
    assert memory.find(prefixes_of(Generate("r", "t", "m", (Text("Two"),), cache_key="c"))) == "left"
    assert memory.find(prefixes_of(Generate("r", "t", "m", (Text("Two"),), cache_key="d"))) is None


def test_what_has_no_prefix_asks_for_nobody() -> None:
    assert prefixes_of(Embed("r", "t", "m", ("Hello",))) == []
    assert Memory[str]().find([]) is None


def test_the_oldest_prefixes_are_forgotten_first() -> None:
    memory: Memory[str] = Memory(capacity=2)
    for name in (b"a", b"b", b"c"):
        memory.add([name], name.decode())
    assert [memory.find([name]) for name in (b"a", b"b", b"c")] == [None, "b", "c"]


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 40), min_size=1),
    st.sampled_from("abcde"),
    st.integers(0, 9),
)
def test_the_holder_is_first_unless_it_is_busier_than_the_slack_allows(loads, holder, slack) -> None:
    ranks = choose(loads, holder, slack, random.Random(1))
    assert all(name in loads for rank in ranks for name in rank)
    assert len(ranks[-1]) == min(2, len(loads))
    preferred = holder in loads and loads[holder] - min(loads.values()) <= slack
    assert (ranks[0] == [holder] and len(ranks) == 2) is preferred or len(loads) == 1
