"""What an examination of a declared model finds: reasons why it cannot be used, and remarks. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from raysearch.schema.node import Keys


@dataclass(frozen=True)
class Finding:
    """One sentence about a declared model, with its remedy where it cannot be used."""

    text: str
    keys: Keys = ()  # where the declaration says so, below the model
    is_refusal: bool = True  # False: a remark
