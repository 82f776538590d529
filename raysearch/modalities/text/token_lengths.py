"""How long texts are in tokens, without torch: counted by a tokenizer that is at hand, or estimated from words."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raysearch.modalities.text.pretrained import PACKAGES

SAMPLE = 2000  # texts that are measured, evenly spread
LONGEST = 8000  # characters of a text that are looked at: more than any encoder reads
PIECES_PER_WORD = 1.3  # word pieces of a vocabulary of some thousand, for each word or punctuation mark
SPECIAL_TOKENS = 2
_WORD = re.compile(r"\w+|[^\w\s]")


def measure_lengths(model: Mapping[str, Any], texts: Sequence[str]) -> tuple[list[int], bool]:
    """Returns the lengths in tokens of at most SAMPLE of the texts, and whether they are estimated from words.

    `model` is a declared model. Of a package or a folder the file tokenizer.json counts the tokens.
    """
    step = max(1, -(-len(texts) // SAMPLE))
    sample = [text[:LONGEST] for text in texts[::step]]
    file = _tokenizer_file(model)
    if file is None:
        return [SPECIAL_TOKENS + round(PIECES_PER_WORD * len(_WORD.findall(text))) for text in sample], True
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception:  # the library has no error of its own; loading the model will say what is wrong
        return measure_lengths({}, texts)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch_fast(sample)], False


def _tokenizer_file(model: Mapping[str, Any]) -> Path | None:
    """Returns the tokenizer of a model that lies on this machine; None for any other."""
    folders = [Path(str(model["path"])).expanduser()] if model.get("path") else []
    if (package := PACKAGES.get(str(model.get("package")))) is not None:
        spec = importlib.util.find_spec(str(model["package"]))  # not imported, and its weights are not hashed
        folders += [Path(where) / package.folder for where in (spec and spec.submodule_search_locations) or ()]
    return next((file for folder in folders if (file := folder / "tokenizer.json").is_file()), None)
