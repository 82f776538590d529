"""The tokenizer of a run: the pre-trained encoder's own, or word pieces made from the task's text.

Word pieces as BERT has them (Devlin et al. 2019, https://arxiv.org/abs/1810.04805): lower-case, `##` inside words.
The `tokenizers` library numbers pieces in the order of a randomly seeded hash map; giving it every single-character
piece up front, in order, leaves nothing to chance, so that the same text gives the same vocabulary everywhere.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from raysearch.errors import SpecError
from raysearch.modalities.text.pretrained import pretrained_source

MAX_TOKENS = 512  # of a stored text, special ones included
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
LARGEST_ALPHABET = 256  # characters with a piece of their own, the most frequent ones
CHUNK = 4096  # texts encoded at once


@dataclass(frozen=True)
class TaskTokenizer:
    """A tokenizer and the ids that training needs of it."""

    tokenizer: Tokenizer
    tokens: dict[str, Any]  # pad, cls, sep, mask: ids; special: all special ids; vocab_size
    prefix: int  # special tokens before a text
    suffix: int  # and after it

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids of all texts, one after another, and the n + 1 offsets between which each text lies."""
        parts: list[NDArray[np.int32]] = []
        lengths = [0]
        for start in range(0, len(texts), CHUNK):
            for encoding in self.tokenizer.encode_batch_fast(list(texts[start : start + CHUNK])):
                parts.append(np.asarray(encoding.ids, dtype=np.int32))
                lengths.append(len(encoding.ids))
        tokens = np.concatenate(parts) if parts else np.empty(0, np.int32)
        return tokens, np.cumsum(lengths, dtype=np.int64)


def make_tokenizer(model: Mapping[str, Any], texts: Iterable[str], folder: Path) -> TaskTokenizer:
    """The vocabulary of a declared model, saved in `folder` so that AutoTokenizer loads it.

    A model made from a config gets word pieces of `texts`, as many as its vocab_size says; any other has its own.
    """
    source = pretrained_source(model)
    if source is not None:
        return _pretrained(source, folder)
    size = model["config"].get("vocab_size")
    if not isinstance(size, int) or size < 64:
        problem = f"say how many word pieces to make of the task's text, at least 64; got {size!r}"
        raise SpecError(problem, key="model.config.vocab_size")
    tokenizer = train_word_pieces(texts, size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    about: dict[str, Any] = {f"{name}_token": token for name, token in SPECIAL.items()}
    about |= {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    pieces = tokenizer.get_vocab()
    ids = {name: pieces[token] for name, token in SPECIAL.items()}
    special = sorted(ids.values())
    del ids["unk"]
    return _vocabulary(tokenizer, ids, special)


def train_word_pieces(texts: Iterable[str], size: int) -> Tokenizer:
    """A BERT-style tokenizer with at most `size` pieces, special ones included: a function of `texts` as a multiset."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = list(texts)
    seen: Counter[str] = Counter()
    for text in texts:
        seen.update(tokenizer.normalizer.normalize_str(text))
    room = min(LARGEST_ALPHABET, (size - len(SPECIAL)) // 4)
    alphabet = sorted(sorted((c for c in seen if not c.isspace()), key=lambda c: (-seen[c], c))[:room])
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL.values(), *alphabet, *(f"##{c}" for c in alphabet)],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    return _word_piece_tokenizer(tokenizer, pieces)


def _word_piece_tokenizer(trained: Tokenizer, pieces: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token=SPECIAL["unk"]))
    tokenizer.normalizer, tokenizer.pre_tokenizer = trained.normalizer, trained.pre_tokenizer
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    cls, sep = SPECIAL["cls"], SPECIAL["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, pieces[cls]), (sep, pieces[sep])],
    )
    return tokenizer


def _pretrained(source: str, folder: Path) -> TaskTokenizer:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise SpecError(f"no tokenizer can be loaded from {source!r}: {said}", key="model.path") from None
    if not getattr(found, "is_fast", False):
        raise SpecError(f"{source} has no fast tokenizer (tokenizer.json)", key="model.path")
    ids = {name: getattr(found, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    missing = [name for name, number in ids.items() if number is None]
    if missing:
        problem = f"{source} is no encoder that raysearch can use: its tokenizer has no {', '.join(missing)} token"
        raise SpecError(problem, key="model.path")
    found.save_pretrained(str(folder))
    tokenizer = Tokenizer.from_str(found.backend_tokenizer.to_str())
    return _vocabulary(tokenizer, ids, sorted(found.all_special_ids))


def _vocabulary(tokenizer: Tokenizer, ids: dict[str, int], special: list[int]) -> TaskTokenizer:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    mask = tokenizer.encode("a").special_tokens_mask
    prefix = mask.index(0)
    suffix = mask[::-1].index(0)
    return TaskTokenizer(
        tokenizer, {**ids, "special": special, "vocab_size": tokenizer.get_vocab_size()}, prefix, suffix
    )
