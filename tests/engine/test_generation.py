"""What the real model is asked for, it gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serve_app.engine.backend import LocalBackend
from serve_app.engine.llama import Llama
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.engine.sequence import Sequence
from serve_app.protocol import Chat, Failed, FailureCode, Relay, Text
from tests.engine.asking import ask, chat, request
from tests.model import model_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10,"


async def test_the_model_answers_in_its_own_words(backend: LocalBackend) -> None:
    answer = await ask(backend, request("The capital of France is", n=2))
    assert answer.text() == " Paris."
    assert answer.finish() == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 2)


async def test_the_weight_of_a_request_is_that_of_all_its_sequences(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler, weights = backend.engine._scheduler, []
    add = scheduler.add

    def noted(sequence: Sequence) -> None:
        weights.append(sequence.weight)
        add(sequence)

    monkeypatch.setattr(scheduler, "add", noted)
    await ask(backend, replace(request("Hello", n=1), choices=2, weight=2.5))
    assert weights == [2.5, 2.5]


async def test_the_end_token_ends_with_stop_and_is_not_text(backend: LocalBackend) -> None:
    answer = await ask(backend, request(chat("Say only: Hi"), n=60))
    assert answer.finish() == "stop"
    assert "<|" not in answer.text()


async def test_a_seed_reproduces_and_another_does_not() -> None:
    """In a memory of its own: in a crowded one rounding differs by the place of the cells, and so may a draw."""
    quiet = load(LocalModelOptions("quiet", model_path(), n_context=256, n_cells=256, n_threads=2))
    for seed in (7, 2**32 - 1, -1):
        wanted = {"n": 10, "temperature": 1.5, "tenant": f"{seed}"}
        first, again = [await ask(quiet, request("Once upon a time", seed=seed, **wanted)) for _ in range(2)]
        other = await ask(quiet, request("Once upon a time", seed=8, **wanted))
        assert first.text() == again.text() != other.text()
    await quiet.close()


async def test_choices_differ_and_their_prompt_counts_once(backend: LocalBackend) -> None:
    answer = await ask(backend, request("Once upon a time", n=6, choices=3, temperature=1.5, seed=1))
    assert len({answer.text(at) for at in range(3)}) == 3
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 18)
    assert [answer.finish(at) for at in range(3)] == ["length"] * 3


async def test_many_prompts_are_numbered_in_order(backend: LocalBackend) -> None:
    prompts = [COUNT, "The capital of France is", "A, B, C, D,"]
    answer = await ask(backend, request(*prompts, n=2, choices=2))
    for at, prompt in enumerate(prompts):
        alone = (await ask(backend, request(prompt, n=2))).text()
        assert answer.text(2 * at) == answer.text(2 * at + 1) == alone


async def test_a_stop_string_across_tokens_cuts_the_text_before_it(backend: LocalBackend) -> None:
    free = (await ask(backend, request(COUNT, n=16))).text()
    stop = free[7:11]
    assert "," in stop
    answer = await ask(backend, request(COUNT, n=16, stop=(stop, "never")))
    assert answer.text() == free[: free.index(stop)]
    assert answer.finish() == "stop"
    assert answer.usage.completion_tokens < 16


async def test_an_answer_without_limit_ends_where_the_context_does(backend: LocalBackend) -> None:
    answer = await ask(backend, request(Text((19,) * 500), n=None, ignore_eos=True))
    assert answer.finish() == "length"
    assert answer.usage.completion_tokens == 512 - 500


async def test_a_prompt_that_leaves_no_room_is_refused(backend: LocalBackend) -> None:
    for prompt in (Text((19,) * 512), "word " * 100_000):
        answer = await ask(backend, request(prompt, n=1))
        assert isinstance(answer.end, Failed)
        assert answer.end.code is FailureCode.CONTEXT_LENGTH
        assert "512 tokens" in answer.end.message


@pytest.mark.parametrize("tokens", [(), (-1,), (49152,), (2**40,)])
async def test_token_ids_of_no_vocabulary_are_refused(backend: LocalBackend, tokens: tuple[int, ...]) -> None:
    end = (await ask(backend, request(Text(tokens)))).end
    assert isinstance(end, Failed)
    assert end.code is FailureCode.INVALID_REQUEST


async def test_an_empty_prompt_is_answered(backend: LocalBackend) -> None:
    assert (await ask(backend, request("", n=2))).usage.completion_tokens <= 2


async def test_a_bias_bans_and_forces(backend: LocalBackend) -> None:
    paris = (await ask(backend, request("The capital of France is", n=1, logprobs=0))).logprobs()[0]
    banned = backend._prompter._llama.tokenize(paris.token, special=False)
    without = await ask(backend, request("The capital of France is", n=1, logit_bias=((banned[0], -100.0),)))
    assert without.text() != paris.token
    forced = await ask(backend, request("Hello", n=3, logit_bias=((banned[0], 100.0),)))
    assert forced.text() == paris.token * 3


@pytest.mark.parametrize("penalty", [{"repeat_penalty": 1.8}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}])
async def test_penalties_change_the_text(backend: LocalBackend, penalty: dict[str, float]) -> None:
    prompt = "tick tock tick tock tick tock"
    plain = (await ask(backend, request(prompt, n=12))).text()
    assert (await ask(backend, request(prompt, n=12, **penalty))).text() != plain


@pytest.mark.parametrize("few", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-6}])
async def test_narrow_sampling_is_greedy(backend: LocalBackend, few: dict[str, float]) -> None:
    greedy = (await ask(backend, request(COUNT, n=5))).text()
    assert (await ask(backend, request(COUNT, n=5, seed=3, **{"temperature": 1.0, **few}))).text() == greedy


async def test_min_tokens_and_ignore_eos_keep_it_talking(backend: LocalBackend) -> None:
    short = (await ask(backend, request(chat("Say only: Hi"), n=60))).usage.completion_tokens
    least = await ask(backend, request(chat("Say only: Hi"), n=60, min_tokens=short + 3))
    assert least.usage.completion_tokens >= short + 3
    endless = await ask(backend, request(chat("Say only: Hi"), n=short + 6, ignore_eos=True))
    assert (endless.usage.completion_tokens, endless.finish()) == (short + 6, "length")


async def test_logprobs_are_of_the_text_and_greedy_takes_the_likeliest(backend: LocalBackend) -> None:
    answer = await ask(backend, request(COUNT, n=8, logprobs=3))
    entries = answer.logprobs()
    assert len(entries) == 8
    assert b"".join(entry.data for entry in entries).decode() == answer.text()
    for entry in entries:
        assert entry.logprob is not None
        assert entry.logprob <= 0
        assert entry.top[0] == (entry.token, entry.logprob, entry.data)
        assert [value for _, value, _ in entry.top] == sorted((value for _, value, _ in entry.top), reverse=True)


async def test_logprobs_are_the_models_own_whatever_the_bias(backend: LocalBackend) -> None:
    plain = (await ask(backend, request("Hello", n=1, logprobs=2))).logprobs()[0]
    biased = (await ask(backend, request("Hello", n=1, logprobs=2, logit_bias=((500, 100.0),)))).logprobs()[0]
    assert biased.top == plain.top
    assert biased.logprob is not None
    assert biased.logprob < biased.top[1][1]


async def test_echoed_prompt_scores_equal_the_scores_of_generating_it(backend: LocalBackend) -> None:
    generated = await ask(backend, request(COUNT, n=6, logprobs=1))
    echoed = await ask(backend, request(COUNT + generated.text(), n=0, logprobs=1, echo=True))
    assert echoed.text() == COUNT + generated.text()
    assert echoed.finish() == "length"
    assert echoed.usage.completion_tokens == 0
    assert echoed.logprobs()[0].logprob is None
    for scored, made in zip(echoed.logprobs()[-6:], generated.logprobs(), strict=True):
        assert scored.token == made.token
        assert scored.logprob == pytest.approx(made.logprob, abs=0.3)


async def test_echo_without_scores_is_the_prompt_and_the_answer(backend: LocalBackend) -> None:
    prompt = "The capital of 漢字 👩‍👧 is"
    alone = (await ask(backend, request(prompt, n=3))).text()
    answer = await ask(backend, request(prompt, n=3, echo=True, choices=2))
    assert answer.text(0) == answer.text(1) == prompt + alone


@pytest.mark.parametrize("as_tokens", [False, True])
async def test_a_suffix_stands_between_the_marks_the_model_was_trained_with(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, as_tokens: bool
) -> None:
    monkeypatch.setattr(Llama, "infill", property(lambda _: (3, 4, 5)))
    before, after = "def add(a, b):\n", "    return c"
    llama = backend._prompter._llama
    prompt = tuple(llama.tokenize(before, special=False)) if as_tokens else before
    answer = await ask(backend, request(Text(prompt, suffix=after), n=0, echo=True, logprobs=0))
    parts = b"".join(entry.data or b"|" for entry in answer.logprobs()).decode()
    assert parts == f"|{before}|{after}|"
    filled = await ask(backend, request(Text(prompt, suffix=after), n=4))
    assert filled.usage.prompt_tokens == len(answer.logprobs())


async def test_a_suffix_or_a_relay_is_refused_in_words(backend: LocalBackend) -> None:
    end = (await ask(backend, request(Text("a", suffix="b")))).end
    relay = Relay("r", "t", "llama", "completions", b"{}", stream=False)
    (failed,) = [event async for batch in backend.generate(relay) for event in batch]
    assert isinstance(failed, Failed)
    assert failed.code is FailureCode.INTERNAL
    assert isinstance(end, Failed) or backend._prompter._llama.infill is not None


async def test_a_prefix_is_reused_within_a_tenant_and_never_across(backend: LocalBackend) -> None:
    prompt = "A prompt of some length that nobody else has sent before, word by word."
    first = (await ask(backend, request(prompt, n=1, tenant="one"))).usage
    again = (await ask(backend, request(prompt, n=1, tenant="one"))).usage
    other = (await ask(backend, request(prompt, n=1, tenant="two"))).usage
    assert (first.cached_tokens, other.cached_tokens) == (0, 0)
    assert again.cached_tokens == again.prompt_tokens - 1


async def test_a_conversation_continues_where_it_was(backend: LocalBackend) -> None:
    asked = {"role": "user", "content": "Name a colour."}
    first = await ask(backend, request(Chat((asked,)), n=6, tenant="talk"))
    more = (asked, {"role": "assistant", "content": first.text()}, {"role": "user", "content": "Another."})
    second = await ask(backend, request(Chat(more), n=2, tenant="talk"))
    assert second.usage.cached_tokens >= first.usage.prompt_tokens
