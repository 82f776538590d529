"""The tokenizer of a run: that of the pre-trained encoder, or word pieces trained on the task's text.

Word pieces are those of BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805): lower-case, with `##` inside
words. The `tokenizers` library numbers pieces in the order of a randomly seeded hash map. It is therefore given every
single-character piece in order beforehand, so that the same text gives the same vocabulary everywhere.
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

MAX_TOKENS = 512  # of a stored text, including special tokens
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
LARGEST_ALPHABET = 256  # the most frequent characters have a piece each, at most this many
CHUNK = 4096  # texts encoded together


@dataclass(frozen=True)
class TaskTokenizer:
    """A tokenizer and the token ids that training needs."""

    tokenizer: Tokenizer
    tokens: dict[str, Any]  # pad, cls, sep, mask: ids; special: all special ids; vocab_size
    prefix: int  # the number of special tokens before a text
    suffix: int  # the number of special tokens after a text

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Returns the token ids of all texts, concatenated, and offsets (n + 1,) between which each text lies."""
        encoded: list[NDArray[np.int32]] = []
        lengths = [0]
        for start in range(0, len(texts), CHUNK):
            for encoding in self.tokenizer.encode_batch_fast(list(texts[start : start + CHUNK])):
                encoded.append(np.asarray(encoding.ids, dtype=np.int32))
                lengths.append(len(encoding.ids))
        tokens = np.concatenate(encoded) if encoded else np.empty(0, np.int32)
        return tokens, np.cumsum(lengths, dtype=np.int64)


def make_tokenizer(model: Mapping[str, Any], texts: Iterable[str], folder: Path) -> TaskTokenizer:
    """Makes the tokenizer of a declared model and saves it to `folder` so that AutoTokenizer can load it.

    For a model made from a config, word pieces are trained on `texts`, as many as its vocab_size; any other model has
    a tokenizer. Raises SpecError if that cannot be loaded or used, and for a vocab_size below 64.
    """
    source = pretrained_source(model)
    if source is not None:
        return _load_pretrained(source, folder)
    size = model["config"].get("vocab_size")
    if not isinstance(size, int) or size < 64:
        problem = f"must be the number of word pieces to make of the task's text, at least 64; got {size!r}"
        raise SpecError(problem, key="model.config.vocab_size")
    tokenizer = train_word_pieces(texts, size)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {f"{name}_token": token for name, token in SPECIAL.items()}
    config |= {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    pieces = tokenizer.get_vocab()
    ids = {name: pieces[token] for name, token in SPECIAL.items()}
    special = sorted(ids.values())
    del ids["unk"]
    return _task_tokenizer(tokenizer, ids, special)


def train_word_pieces(texts: Iterable[str], size: int) -> Tokenizer:
    """Returns a tokenizer like BERT's with at most `size` pieces, special ones included.

    It depends on the texts and on how often each occurs, but not on their order.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = list(texts)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    largest = min(LARGEST_ALPHABET, (size - len(SPECIAL)) // 4)
    by_frequency = sorted((c for c in counts if not c.isspace()), key=lambda c: (-counts[c], c))
    alphabet = sorted(by_frequency[:largest])
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


def _load_pretrained(source: str, folder: Path) -> TaskTokenizer:
    from transformers import AutoTokenizer

    try:
        pretrained = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SpecError(f"no tokenizer can be loaded from {source!r}: {reason}", key="model.path") from None
    if not getattr(pretrained, "is_fast", False):
        raise SpecError(f"{source} has no fast tokenizer (tokenizer.json)", key="model.path")
    ids = {name: getattr(pretrained, f"{name}_token_id") for name in ("pad", "cls", "sep", "mask")}
    missing = [name for name, number in ids.items() if number is None]
    if missing:
        problem = f"{source} is not an encoder that raysearch can use: its tokenizer has no {', '.join(missing)} token"
        raise SpecError(problem, key="model.path")
    pretrained.save_pretrained(str(folder))
    tokenizer = Tokenizer.from_str(pretrained.backend_tokenizer.to_str())
    return _task_tokenizer(tokenizer, ids, sorted(pretrained.all_special_ids))


def _task_tokenizer(tokenizer: Tokenizer, ids: dict[str, int], special: list[int]) -> TaskTokenizer:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    mask = tokenizer.encode("a").special_tokens_mask
    prefix = mask.index(0)
    suffix = mask[::-1].index(0)
    return TaskTokenizer(
        tokenizer, {**ids, "special": special, "vocab_size": tokenizer.get_vocab_size()}, prefix, suffix
    )
