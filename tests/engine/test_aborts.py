"""Everything that makes llama.cpp abort the process is refused in Python: each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.model import model_path

ROOT = Path(__file__).parent.parent.parent

PROLOGUE = """
import sys
import numpy as np
from serve_app.engine.llama import Decoded, Llama, LlamaOptions
from serve_app.engine.sampler import Sampler
from serve_app.engine.sequence import Chunk, Sequence
from serve_app.protocol import Sampling

llama = Llama(LlamaOptions(sys.argv[1], n_cells=256, n_slots=4, n_batch=32, n_rows=8))

def chunk(tokens, *, rows=1, seq_id=0, start=0, count=None, first_row=0):
    sequence = Sequence(list(tokens), "t")
    sequence.seq_id = seq_id
    return Chunk(sequence, start, len(tokens) if count is None else count, rows, first_row)

def refused(*plan):
    try:
        llama.decode(plan)
    except ValueError:
        assert llama.decode((chunk([1, 2]),)) is Decoded.OK, "it works on"
        return
    raise SystemExit("not refused")

def no_logits(of, index):
    try:
        llama.logits(of, index)
    except ValueError:
        return
    raise SystemExit("logits were given")
"""

CASES = {
    "more tokens than a batch holds": "refused(chunk([1] * 33))",
    "more tokens in two chunks": "refused(chunk([1] * 20), chunk([1] * 20, seq_id=1))",
    "a token beyond the vocabulary": "refused(chunk([1, llama.n_vocab]))",
    "a token beyond 32 bits": "refused(chunk([2**40]))",
    "a negative token": "refused(chunk([1, -1]))",
    "an empty batch": "refused()",
    "an empty chunk": "refused(chunk([], rows=0))",
    "a chunk beyond its sequence": "refused(chunk([1, 2], count=3))",
    "a chunk of a sequence without a slot": "refused(chunk([1], seq_id=None))",
    "more logits rows than reserved": "refused(chunk([1] * 9, rows=9))",
    "more logits rows than tokens": "refused(chunk([1, 2], rows=3))",
    "a sequence id that does not exist": "assert llama.decode((chunk([1], seq_id=99),)) is Decoded.INVALID",
    "a gap in a sequence": """
assert llama.decode((chunk([1]),)) is Decoded.OK
assert llama.decode((chunk([1] * 9, start=8, count=1),)) is Decoded.INVALID
""",
    "logits that were not asked for": """
some = chunk([1, 2, 3])
assert llama.decode((some,)) is Decoded.OK
no_logits(some, 1)
no_logits(some, -1)
none = chunk([1, 2], rows=0, seq_id=1)
assert llama.decode((none,)) is Decoded.OK
no_logits(none, 0)
no_logits(some, 0)
""",
    "logits after a batch that failed": """
some = chunk([1])
assert llama.decode((some,)) is Decoded.OK
assert llama.decode((chunk([1] * 9, start=8, count=1),)) is Decoded.INVALID
no_logits(some, 0)
""",
    "a row in which everything is forbidden": """
for sampling in (Sampling(), Sampling(temperature=0), Sampling(top_k=5, top_p=0.5, min_p=0.1, typical_p=0.5)):
    some = chunk([1], seq_id=1)
    llama.forget(1, 0)
    assert llama.decode((some,)) is Decoded.OK
    logits, position = llama.logits(some, 0)
    logits[:] = -np.inf
    assert Sampler(llama, sampling, 1).sample(logits, position) is None
""",
    "a token that the grammar forbids": """
from serve_app.engine.compiler import Compiler, Vocabulary
from serve_app.engine.grammar import GrammarMask

eos = llama.eos
compiler = Compiler(Vocabulary(llama.pieces, [eos]))
mask = GrammarMask(compiler.compile('{"grammars": [{"json_schema": {"type": "boolean"}}]}'), llama.n_vocab)
for wanted in (llama.tokenize("{", special=False)[0], eos):  # by far the likeliest, and forbidden
    some = chunk([1], seq_id=1)
    llama.forget(1, 0)
    assert llama.decode((some,)) is Decoded.OK
    logits, position = llama.logits(some, 0)
    logits[wanted] = 1000
    sampled = Sampler(llama, Sampling(logit_bias=((wanted, 100.0),)), 1, mask).sample(logits, position)
    assert sampled is None or sampled.token != wanted
mask.accept(eos)
mask.accept(0)
logits = np.zeros(llama.n_vocab, dtype=np.float32)
mask.apply(logits)
""",
    "everything freed twice": "llama.close(); llama.close()",
    "text of every kind": """
for text in ("", "\\0", "\\0" * 1000, "\\uffff\\U0010ffff", "<|im_start|>" * 100, "a" * 100_000, "\\ud7ff", " " * 5000):
    for special in (True, False):
        assert all(0 <= token < llama.n_vocab for token in llama.tokenize(text, special=special))
""",
}


def _run(script: str, path: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)


@pytest.mark.parametrize("name", CASES)
def test_the_process_survives(name: str) -> None:
    done = _run(PROLOGUE + CASES[name], model_path())
    assert done.returncode == 0, done.stderr[-2000:]
