"""The tokenizer of a run: that of the pre-trained encoder, or a vocabulary made of the task's text.

Word pieces are those of BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805): lower-case, with `##` inside
words. The `tokenizers` library numbers pieces in the order of a randomly seeded hash map. It is therefore given every
single-character piece in order beforehand, so that the same text gives the same vocabulary everywhere. Texts of which
word pieces lose too much, as of most scripts but Latin, get pairs of bytes instead (`byte_pairs`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from raysearch.errors import SpecError
from raysearch.modalities.text.byte_pairs import SMALLEST, Losses, measure_losses, train_byte_pairs
from raysearch.modalities.text.pretrained import pretrained_source

A = TypeVar("A")
B = TypeVar("B")

MAX_TOKENS = 512  # of a stored text, including special tokens
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
PIECES = 4096  # for a model that reads no tokens, so that its data can be read by an encoder of the same size
LARGEST_ALPHABET = 256  # the most frequent characters have a piece each, at most this many
CHUNK = 4096  # texts encoded together
LONGEST_TEXT = 1 << 16  # characters of a text that are encoded, if they fill MAX_TOKENS
LONGEST_WORD = 1000  # characters of a word that word pieces are learned from: the time grows with its square
_LONG_WORD = re.compile(rf"\w{{{LONGEST_WORD + 1},}}")


@dataclass(frozen=True)
class TaskTokenizer:
    """A tokenizer and the token ids that training needs."""

    tokenizer: Tokenizer
    tokens: dict[str, Any]  # pad, cls, sep, mask: ids; special: all special ids; vocab_size
    prefix: int  # the number of special tokens before a text
    suffix: int  # the number of special tokens after a text
    unknown: int | None = None  # the token of what is not in the vocabulary; None if there is none
    notes: tuple[str, ...] = ()  # what was unusual about making it
    source: str = "the vocabulary made of the texts"

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Returns the token ids of all texts, concatenated, and offsets (n + 1,) between which each text lies."""
        encoded: list[NDArray[np.int32]] = []
        lengths = [0]
        for start in range(0, len(texts), CHUNK):
            for ids in self._encode_chunk(texts[start : start + CHUNK]):
                encoded.append(np.asarray(ids, dtype=np.int32))
                lengths.append(len(ids))
        tokens = np.concatenate(encoded) if encoded else np.empty(0, np.int32)
        return tokens, np.cumsum(lengths, dtype=np.int64)

    def encode_one(self, text: str) -> Encoding:
        """Returns the encoding of a text, with offsets. Raises SpecError for a text that cannot be encoded."""
        encoding = self._try(self.tokenizer.encode, text[:LONGEST_TEXT])
        if len(text) <= LONGEST_TEXT or len(encoding.ids) >= MAX_TOKENS:
            return encoding
        return self._try(self.tokenizer.encode, text)

    def _encode_chunk(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text; of a very long text no more than fills MAX_TOKENS is looked at."""
        encodings = self._try(self.tokenizer.encode_batch_fast, [text[:LONGEST_TEXT] for text in texts])
        return [
            encoding.ids
            if len(text) <= LONGEST_TEXT or len(encoding.ids) >= MAX_TOKENS
            else self._try(self.tokenizer.encode, text).ids
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _try(self, encode: Callable[[A], B], texts: A) -> B:
        try:
            return encode(texts)
        except Exception as error:  # the library has no error of its own: it has a text without an unknown token, ...
            reason = " ".join(str(error).split())[:200]
            raise SpecError(f"the tokenizer of {self.source} cannot encode the texts: {reason}", key="model") from None


def make_tokenizer(model: Mapping[str, Any], texts: Iterable[str], folder: Path) -> TaskTokenizer:
    """Makes the tokenizer of a declared model and saves it to `folder` so that AutoTokenizer can load it.

    For a model made from a config, word pieces are trained on `texts`, as many as its vocab_size; any other model has
    a tokenizer. Raises SpecError if that cannot be loaded or used, and for a vocab_size below 64.
    """
    source = pretrained_source(model)
    if source is not None:
        return _load_pretrained(source, folder)
    size = model["config"].get("vocab_size") if "config" in model else PIECES
    if not isinstance(size, int) or size < 64:
        problem = f"must be the number of word pieces to make of the task's text, at least 64; got {size!r}"
        raise SpecError(problem, key="model.config.vocab_size")
    texts = list(texts)
    tokenizer = train_word_pieces(texts, size)
    losses = measure_losses(tokenizer, SPECIAL["unk"], texts)
    has_byte_pairs = losses.is_too_large and size >= SMALLEST
    if has_byte_pairs:
        tokenizer = train_byte_pairs([text[:LONGEST_TEXT] for text in texts], size, SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {f"{name}_token": token for name, token in SPECIAL.items()}
    config |= {"model_max_length": MAX_TOKENS}
    if has_byte_pairs:
        config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        config |= {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    pieces = tokenizer.get_vocab()
    ids = {name: pieces[token] for name, token in SPECIAL.items()}
    special = sorted(ids.values())
    unknown = ids.pop("unk")
    return replace(_task_tokenizer(tokenizer, ids, special, unknown), notes=tuple(_loss_notes(losses, has_byte_pairs)))


def load_tokenizer(folder: Path) -> TaskTokenizer:
    """Returns the tokenizer that `make_tokenizer` saved. Raises SpecError if there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot be loaded: {error}", file=str(folder)) from None
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(MAX_TOKENS)
    backend.no_padding()
    return TaskTokenizer(backend, {}, 0, 0)


def _loss_notes(losses: Losses, has_byte_pairs: bool) -> list[str]:
    """Returns a sentence on what the vocabulary loses, or would have lost."""
    if not losses.is_too_large:
        return []
    lost = (
        f"{losses.total:.1%} of the characters (unknown words {losses.unknown:.1%}, vowel signs and accents the rest)"
    )
    if has_byte_pairs:
        return [f"word pieces would lose {lost}: the vocabulary is made of pairs of bytes, which lose nothing"]
    return [f"the vocabulary loses {lost}; a vocab_size of at least {SMALLEST} covers every character"]


def train_word_pieces(texts: Iterable[str], size: int) -> Tokenizer:
    """Returns a tokenizer like BERT's with at most `size` pieces, special ones included.

    It depends on the texts and on how often each occurs, but not on their order.
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    learned_from = []
    for whole in texts:
        text = whole[:LONGEST_TEXT]
        normalised = tokenizer.normalizer.normalize_str(text)
        has_long_word = len(text) > LONGEST_WORD and _LONG_WORD.search(normalised) is not None
        learned_from.append(_LONG_WORD.sub(" ", normalised) if has_long_word else text)
        counts.update(_LONG_WORD.sub(" ", normalised) if has_long_word else normalised)
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
    tokenizer.train_from_iterator(learned_from, trainer)
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
        pretrained = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # damaged files raise what their readers raise
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
    return _task_tokenizer(tokenizer, ids, sorted(pretrained.all_special_ids), pretrained.unk_token_id, source)


def _task_tokenizer(
    tokenizer: Tokenizer,
    ids: dict[str, int],
    special: list[int],
    unknown: int | None,
    source: str = TaskTokenizer.source,
) -> TaskTokenizer:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    tokens = {**ids, "special": special, "vocab_size": tokenizer.get_vocab_size()}
    made = TaskTokenizer(tokenizer, tokens, 0, 0, unknown, source=source)
    mask = made.encode_one("a").special_tokens_mask
    if 0 not in mask:
        raise SpecError(f"the tokenizer of {source} makes no token of the text 'a'", key="model")
    return replace(made, prefix=mask.index(0), suffix=mask[::-1].index(0))
