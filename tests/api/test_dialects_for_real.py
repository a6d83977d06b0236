"""The clients of other APIs against a real server with a real model: what fakes would never say."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import anthropic
import httpx2
import ollama
import pytest

from tests.plain_server import MODEL
from tests.running import MODEL_FILE, answers, free_port, start, wait_for

KEY = "sk-dialects-0123456789"
HI = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not MODEL_FILE.exists():
        pytest.skip("the default model is missing: make install")
    port = free_port()
    command = [sys.executable, "-m", "tests.plain_server", str(port), str(MODEL_FILE), KEY]
    process = start(command, {"GOMP_SPINCOUNT": "300"})
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 60, f"the server\n{process.text}")
    yield f"http://127.0.0.1:{port}"
    process.popen.terminate()
    process.popen.wait(20)


def test_every_dialect_says_what_the_others_say(url: str) -> None:
    bare = httpx2.Client(verify=False)
    with anthropic.Anthropic(base_url=url, api_key=KEY, http_client=bare) as claude:
        options = {"model": MODEL, "max_tokens": 12, "messages": HI, "extra_body": {"temperature": 0.0}}
        message = claude.messages.create(**options)
        with claude.messages.stream(**options) as stream:
            streamed = "".join(stream.text_stream)
        counted = claude.messages.count_tokens(model=MODEL, messages=HI).input_tokens
    with ollama.Client(url, headers={"authorization": f"Bearer {KEY}"}, verify=False) as llama:
        chosen = {"temperature": 0, "num_predict": 12}
        chat = llama.chat(MODEL, HI, options=chosen)
        parts = list(llama.generate(MODEL, "Say hello.", options=chosen, stream=True))
    text = message.content[0].to_dict()["text"]
    assert text
    assert streamed == text
    assert chat.message.content == text
    assert "".join(part.response for part in parts) == text
    assert message.usage.output_tokens == chat.eval_count == parts[-1].eval_count
    usage = message.usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0) == chat.prompt_eval_count


def test_a_schema_and_a_forced_tool_hold_in_every_dialect(url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    bare = httpx2.Client(verify=False)
    with anthropic.Anthropic(base_url=url, api_key=KEY, http_client=bare) as claude:
        called = claude.messages.create(
            model=MODEL,
            max_tokens=64,
            messages=HI,
            tools=[{"name": "count", "input_schema": schema}],
            tool_choice={"type": "tool", "name": "count"},
        )
    with ollama.Client(url, headers={"authorization": f"Bearer {KEY}"}, verify=False) as llama:
        said = llama.chat(MODEL, HI, format=schema, options={"num_predict": 64})
    (block,) = [block for block in called.content if block.type == "tool_use"]
    assert block.name == "count"
    assert set(block.input) <= {"n"}
    assert said.message.content is not None
    assert said.message.content.startswith("{")
