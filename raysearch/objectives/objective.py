"""Objective: one primitive from each stage of an objective space."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Objective:
    """An auxiliary objective: one primitive from each stage (AANG, section 3)."""

    data: str
    transform: str
    representation: str
    output: str

    @property
    def name(self) -> str:
        """The four primitives joined by '/', data first."""
        return "/".join((self.data, self.transform, self.representation, self.output))
