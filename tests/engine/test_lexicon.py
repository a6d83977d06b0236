"""Words and numbers of real models, and llama-server's routes over them."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.engine.backend import LocalBackend
from serve_app.engine.embedding_backend import EmbeddingBackend
from serve_app.engine.loading import EmbeddingModelOptions, load_embedding
from serve_app.protocol import Usage
from tests.api.serving import failure, make_context, serving
from tests.engine.asking import ask, request
from tests.minilm import minilm_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

TURN = "<|im_start|>user\nHi<|im_end|>"


async def post(backend: LocalBackend | EmbeddingBackend, route: str, **body: Any) -> Any:
    async with serving(make_context(local={"llama": backend})) as client:
        answer = await client.post(route, json={"model": "llama", **body})
        return answer.json() if answer.status_code == 200 else failure(answer)


async def test_what_was_tokenized_is_written_again(backend: LocalBackend) -> None:
    text = f"{TURN} naïve 北京 🙂\n\tx"
    tokens = (await post(backend, "/tokenize", content=text))["tokens"]
    assert (await post(backend, "/detokenize", tokens=tokens)) == {"content": text}


async def test_control_tokens_are_plain_text_where_that_is_wanted(backend: LocalBackend) -> None:
    special = (await post(backend, "/tokenize", content="<|im_end|>"))["tokens"]
    plain = (await post(backend, "/tokenize", content="<|im_end|>", parse_special=False))["tokens"]
    assert len(special) == 1 < len(plain)


async def test_pieces_are_texts_or_bytes(backend: LocalBackend) -> None:
    pieces = (await post(backend, "/tokenize", content="Hi 𓀀", with_pieces=True))["tokens"]
    assert pieces[0]["piece"] == "Hi"
    data = b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"]) for p in pieces)
    assert data.decode() == "Hi 𓀀"
    assert any(isinstance(piece["piece"], list) for piece in pieces)


async def test_a_template_applied_is_the_prompt_of_a_chat(backend: LocalBackend) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    written = (await post(backend, "/apply-template", messages=messages))["prompt"]
    assert "<|im_start|>user\nHi<|im_end|>" in written
    assert written.endswith("<|im_start|>assistant\n")
    n_tokens = len((await post(backend, "/tokenize", content=written))["tokens"])
    usage = (await post(backend, "/v1/chat/completions", messages=messages, max_tokens=1))["usage"]
    assert usage["prompt_tokens"] == n_tokens


async def test_an_embedding_models_frame_is_shown_and_it_has_no_template(backend: LocalBackend) -> None:
    made = load_embedding(EmbeddingModelOptions("mini", minilm_path()))
    try:
        assert (await post(made, "/tokenize", content="food"))["tokens"] == [2833]
        assert (await post(made, "/tokenize", content="food", add_special=True))["tokens"] == [101, 2833, 102]
        refused = await post(made, "/apply-template", messages=[{"role": "user", "content": "Hi"}])
        assert refused["param"] == "model"
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/detokenize", {"tokens": [49152]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/tokenize", {"model": "nobody", "content": "a"}, "model"),
    ],
)
async def test_what_cannot_be_looked_up_is_refused_by_name(
    backend: LocalBackend, route: str, body: dict[str, Any], param: str
) -> None:
    assert (await post(backend, route, **body))["param"] == param


async def test_nothing_is_generated_for_it(backend: LocalBackend) -> None:
    before = backend.engine.stats().n_steps
    await post(backend, "/tokenize", content="word " * 10_000)
    assert backend.engine.stats().n_steps == before
    assert (await ask(backend, request("Hi", n=1))).usage != Usage()
