"""Compiling strangers' grammars within a budget: each is tried first in a process that gives itself little time.

llguidance cannot be interrupted, and some short schemas keep it busy for minutes, take gigabytes or exhaust the stack.
What a trial has compiled in time is safe to compile in the process that serves.
"""

from __future__ import annotations

import json
import pickle
import resource
import signal
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO, Any

import llguidance
from llguidance.gbnf_to_lark import any_to_lark

BUDGET_S = 2.0
_MEMORY = 1 << 30
_STACK = 4 << 20
"""Half of what threads have elsewhere: what fits in a trial's stack fits in every other."""
_MAX_LEXER_STATES = 50_000
"""Of each choice; a state takes 1 to 2 kB."""


class GrammarError(Exception):
    """The grammar cannot be compiled; the message says why, for the client."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every token's bytes, empty for what is no text; ``ends`` end a generation, the usual one first."""

    pieces: list[bytes]
    ends: list[int]


class Compiler:
    """llguidance over one vocabulary. Making one takes about 0.5 s for 49,000 tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = _Tokens(vocabulary)
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(tokens), eos_token=vocabulary.ends)
        tokens.greedy = self._tokenizer
        self._limits = llguidance.LLParserLimits(verbose_errors=False, max_lexer_states=_MAX_LEXER_STATES)

    def compile(self, source: str) -> Any:
        """A matcher of a grammar in llguidance's JSON. Raises GrammarError."""
        matcher = llguidance.LLMatcher(self._tokenizer, _converted(source), log_level=0, limits=self._limits)
        if matcher.is_error():
            raise GrammarError(" ".join(str(matcher.get_error()).split())[:300])
        return matcher


class _Tokens:
    """What llguidance wants to know of a tokenizer. What is no text can never be matched by text."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.greedy: Any = None
        self.eos_token_id = vocabulary.ends[0]
        self.tokens = [piece or b"\xff<%d>" % token for token, piece in enumerate(vocabulary.pieces)]
        self.special_token_ids = [token for token, piece in enumerate(vocabulary.pieces) if not piece]

    def __call__(self, text: bytes) -> list[int]:
        """For text that has no alternative: always the longest token. llama.cpp's own may begin with a space."""
        return self.greedy.greedy_tokenize(text.decode()) if self.greedy else []


def _converted(source: str) -> str:
    """GBNF becomes Lark."""
    grammars = json.loads(source)
    try:
        for grammar in grammars["grammars"]:
            if "grammar" in grammar:
                grammar["lark_grammar"] = any_to_lark(grammar.pop("grammar"))
    except Exception as error:  # it is not written for strangers' texts
        raise GrammarError("it is no grammar in GBNF or Lark") from error
    return json.dumps(grammars)


class Trial:
    """A process that compiles what it is given. One thread at a time; ``close`` from any."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, source: str) -> None:
        """Raises GrammarError for what cannot be compiled, or not within the budget."""
        process = self._running()
        try:
            _send(process.stdin, source.encode())
            answer = _receive(process.stdout)
        except OSError:
            answer = None
        if answer is None:
            self.close()
            raise GrammarError(f"it cannot be compiled within {BUDGET_S:g} s")
        if answer:
            raise GrammarError(answer.decode())

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-c", "from serve_app.engine.compiler import trial_child; trial_child()"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
            _send(self._process.stdin, pickle.dumps(self._vocabulary))
        return self._process

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


def trial_child() -> None:
    """The child's side of ``Trial``; it ends with its standard input, or when a grammar takes too long."""
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    compiler = Compiler(pickle.loads(_receive(jobs) or b""))  # noqa: S301 (from our own process)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(_STACK)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while (source := _receive(jobs)) is not None:
        complaint: list[str] = []
        signal.setitimer(signal.ITIMER_REAL, BUDGET_S)
        attempt = threading.Thread(target=_try, args=(compiler, source.decode(), complaint))
        attempt.start()
        attempt.join()
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, "".join(complaint).encode())


def _try(compiler: Compiler, source: str, complaint: list[str]) -> None:
    try:
        compiler.compile(source).deep_copy().compute_bitmask()
    except GrammarError as error:
        complaint.append(str(error))
    except Exception:
        complaint.append("it is too complex")


def _send(pipe: IO[bytes] | None, data: bytes) -> None:
    if pipe is None:
        raise BrokenPipeError
    pipe.write(struct.pack("<I", len(data)) + data)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> bytes | None:
    """None at the end."""
    header = pipe.read(4) if pipe else b""
    if len(header) < 4:
        return None
    size = struct.unpack("<I", header)[0]
    data = pipe.read(size) if pipe else b""
    return data if len(data) == size else None
