"""A vocabulary that covers every character: pairs of bytes, for texts of which word pieces would lose too much.

BERT's word pieces are words of letters between spaces and punctuation, without accents. They fit the Latin script. Of
other scripts, what is not among the most frequent characters becomes unknown, and vowel signs and tone marks are
dropped. The byte-level pairs of GPT-2 (Radford et al. 2019) lose nothing: the vocabulary begins with the 256 bytes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from raysearch.data.splits import order_by_hash

SAMPLE, LONGEST_TEXT = 2000, 5000  # texts that are looked at, and characters of each
LARGEST_UNKNOWN = 0.01  # share of characters that may become unknown, or lose their marks in another script than Latin
LARGEST_ACCENTS = 0.1  # accents of Latin letters that may be dropped, as a share of the characters
SMALLEST = 512  # vocabulary in which 256 bytes leave room for pairs
LONGEST_WORD = 100  # characters between which pairs are made
_WORDS = Regex(rf" ?[^\s\p{{P}}]{{1,{LONGEST_WORD}}}| ?\p{{P}}|\s+")


@dataclass(frozen=True)
class Losses:
    """What a vocabulary loses of some texts, as shares of their characters without spaces."""

    unknown: float  # characters of unknown words
    marks: float  # vowel signs, tone marks and the like of other scripts than Latin
    accents: float  # of Latin letters

    @property
    def total(self) -> float:
        """The share that is unknown or changed."""
        return self.unknown + self.marks + self.accents

    @property
    def is_too_large(self) -> bool:
        """Does a model have to be given another vocabulary?"""
        return self.unknown + self.marks > LARGEST_UNKNOWN or self.accents > LARGEST_ACCENTS


def measure_losses(tokenizer: Tokenizer, unknown: str, texts: Sequence[str]) -> Losses:
    """Returns what word pieces without accents lose, as the mean over (a sample of) the texts.

    `unknown` is their unknown token.
    """
    sample = [text[:LONGEST_TEXT] for text in order_by_hash(texts, "vocabulary")[:SAMPLE]]
    sums = [0.0, 0.0, 0.0]
    for text in sample:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        pairs = zip(encoding.tokens, encoding.offsets, strict=True)
        lost = sum(stop - start for token, (start, stop) in pairs if token == unknown)
        characters, marks, accents = _count_marks(text)
        sums = [total + count / characters for total, count in zip(sums, (lost, marks, accents), strict=True)]
    return Losses(*(min(total / max(len(sample), 1), 1.0) for total in sums))


def _count_marks(text: str) -> tuple[int, int, int]:
    """Returns the numbers of characters (at least 1), of marks on other letters than Latin, and of those on Latin."""
    characters = marks = accents = 0
    base = ""
    for character in unicodedata.normalize("NFD", text):
        characters += not character.isspace()
        if unicodedata.category(character) != "Mn":
            base = character
        elif base and unicodedata.name(base, "").startswith("LATIN"):
            accents += 1
        else:
            marks += 1
    return max(characters, 1), marks, accents


def train_byte_pairs(texts: Sequence[str], size: int, special: dict[str, str]) -> Tokenizer:
    """Returns a lower-case tokenizer of at most `size` byte-level pairs, `special` tokens included.

    It depends on the texts and on how often each occurs, but not on their order. `special` has the tokens by role; cls
    and sep are put around a text.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special.values()),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    cls, sep = special["cls"], special["sep"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (cls, sep)],
    )
    return tokenizer
