"""``/v1/conversations`` over a real database, by the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.conversations import Conversation, ConversationItemList

from tests.api.contract import conforms, typed
from tests.api.responding import DONE, STARTED, House, house, saying
from tests.fakes import FakeBackend

KEY, OTHER = "sk-mine-000000000", "sk-theirs-00000000"
USER: Any = {"type": "message", "role": "user", "content": "Hi"}
CALL: Any = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"}
RESULT: Any = {"type": "function_call_output", "call_id": "call_1", "output": "2"}
THOUGHT: Any = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "c.db", {"llama": saying("Hello")}, keys=(KEY, OTHER)) as built:
        yield built


@pytest.fixture
def client(home: House) -> openai.AsyncOpenAI:
    return home.client(KEY)


async def kinds(client: openai.AsyncOpenAI, conversation: str) -> list[str]:
    listed = client.conversations.items.list(conversation, order="asc")
    return [item.type async for item in listed]


async def test_a_conversation_is_made_changed_and_forgotten(client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(metadata={"topic": "x"}, items=[USER])
    typed(Conversation, made.to_dict())
    conforms("ConversationResource", made.to_dict())
    assert (await client.conversations.retrieve(made.id)).to_dict() == made.to_dict()
    changed = await client.conversations.update(made.id, metadata={"topic": "y"})
    assert changed.metadata == {"topic": "y"}
    assert (await client.conversations.retrieve(made.id)).metadata == {"topic": "y"}
    gone = await client.conversations.delete(made.id)
    assert gone.to_dict() == {"id": made.id, "object": "conversation.deleted", "deleted": True}
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(made.id)
    assert (await client.conversations.create()).metadata == {}


async def test_items_are_added_listed_read_and_taken_out(client: openai.AsyncOpenAI) -> None:
    conversation = (await client.conversations.create()).id
    added = await client.conversations.items.create(conversation, items=[USER, THOUGHT, CALL, RESULT])
    typed(ConversationItemList, added.to_dict(), extras=frozenset({"status"}))
    conforms("ConversationItemList", added.to_dict())
    assert await kinds(client, conversation) == ["message", "reasoning", "function_call", "function_call_output"]
    newest = await client.conversations.items.list(conversation, limit=1)
    assert (newest.data[0].type, newest.has_more) == ("function_call_output", True)
    call = added.data[2].id or ""
    assert (await client.conversations.items.retrieve(call, conversation_id=conversation)).type == "function_call"
    assert (await client.conversations.items.delete(call, conversation_id=conversation)).id == conversation
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.retrieve(call, conversation_id=conversation)
    assert await kinds(client, conversation) == ["message", "reasoning", "function_call_output"]
    with pytest.raises(openai.BadRequestError):
        await client.conversations.items.create(conversation, items=[USER] * 21)


async def test_a_response_goes_on_from_a_conversation_and_adds_to_it(client: openai.AsyncOpenAI) -> None:
    conversation = (await client.conversations.create(items=[USER])).id
    first = await client.responses.create(model="llama", input="Two", conversation=conversation)
    await client.responses.create(model="llama", input="Three", conversation={"id": conversation})
    assert first.conversation
    assert first.conversation.id == conversation
    listed = [item async for item in client.conversations.items.list(conversation, order="asc")]
    texts = [item.content[0].text for item in listed]  # type: ignore[union-attr]
    assert texts == ["Hi", "Two", "Hello", "Three", "Hello"]
    await client.conversations.delete(conversation)
    assert (await client.responses.retrieve(first.id)).output_text == "Hello"


async def test_two_responses_at_once_in_one_conversation_are_one_and_a_conflict(tmp_path: Path) -> None:
    talking = asyncio.Event()
    model = FakeBackend(STARTED, talking, saying("Hello").steps[1], saying("").steps[2], DONE)
    async with house(tmp_path / "c.db", {"llama": model}, keys=(KEY,)) as home:
        client = home.client(KEY)
        conversation = (await client.conversations.create()).id
        first = asyncio.create_task(client.responses.create(model="llama", input="a", conversation=conversation))
        await model.started.wait()
        with pytest.raises(openai.ConflictError) as refused:
            await client.responses.create(model="llama", input="b", conversation=conversation)
        assert refused.value.code == "conversation_locked"
        talking.set()
        assert (await first).status == "completed"
        model.steps = saying("Hello").steps
        assert (await client.responses.create(model="llama", input="c", conversation=conversation)).status
        texts = [item.content[0].text async for item in client.conversations.items.list(conversation, order="asc")]  # type: ignore[union-attr]
    assert texts == ["a", "Hello", "c", "Hello"]


async def test_a_conversation_is_nobody_elses(home: House, client: openai.AsyncOpenAI) -> None:
    made = await client.conversations.create(items=[USER])
    (item,) = (await client.conversations.items.list(made.id)).data
    stranger = home.client(OTHER)
    for refused in (
        stranger.conversations.retrieve(made.id),
        stranger.conversations.update(made.id, metadata={}),
        stranger.conversations.delete(made.id),
        stranger.conversations.items.list(made.id),
        stranger.conversations.items.create(made.id, items=[USER]),
        stranger.conversations.items.retrieve(item.id or "", conversation_id=made.id),
        stranger.conversations.items.delete(item.id or "", conversation_id=made.id),
        stranger.responses.create(model="llama", input="x", conversation=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
