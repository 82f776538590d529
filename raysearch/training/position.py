"""The place of a trial in its schedule, and what it has measured on the way there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raysearch.training.step.description import Losses


@dataclass
class Position:
    """The phase and step that a trial has reached, its best score, and its losses since the last evaluation."""

    phase: int = 0  # number of the phase, from 0
    phase_step: int = 0  # steps taken in it
    step: int = 0  # steps taken in all
    evaluations_without_improvement: int = 0  # in the phase
    steps_in_rounds: int = 0  # steps of the phase in rounds of branches, before ordinary ones
    best: dict[str, float] | None = None  # score and step
    loss_sums: dict[str, float] = field(default_factory=lambda: {"end_task": 0.0, "aux": 0.0, "steps": 0})

    def advance(self, steps: int, losses: Losses | None) -> None:
        """Moves on by one step, or by the steps of a round; `losses` are their means, None without any to report."""
        self.step, self.phase_step = self.step + steps, self.phase_step + steps
        if losses is None:
            return
        self.loss_sums["end_task"] += losses.end_task
        self.loss_sums["aux"] += losses.aux
        self.loss_sums["steps"] += 1

    def begin_next_phase(self) -> None:
        """Moves on to the beginning of the next phase."""
        self.phase, self.phase_step = self.phase + 1, 0
        self.evaluations_without_improvement = self.steps_in_rounds = 0

    def has_passed(self, every: int, *, since: int) -> bool:
        """Returns whether the phase has passed a multiple of `every` steps after step `since`."""
        return since // every < self.phase_step // every

    def record_score(self, score: float, *, keeps_last: bool = False, score_step: int = 0) -> bool:
        """Records the score of an evaluation; returns whether it is the best so far, or the last if that is kept.

        With `score_step` the evaluation at that step counts as the best one, and none after it is better.
        """
        is_decided = self.best is not None and self.best["step"] == score_step
        is_decisive = keeps_last or self.step == score_step
        if is_decided or (self.best is not None and not is_decisive and not score > self.best["score"]):
            self.evaluations_without_improvement += 1
            return False
        self.best, self.evaluations_without_improvement = {"score": score, "step": self.step}, 0
        return True

    def take_mean_losses(self) -> Losses:
        """Returns the mean losses since the last call."""
        steps = max(self.loss_sums["steps"], 1)
        means = Losses(self.loss_sums["end_task"] / steps, self.loss_sums["aux"] / steps)
        self.loss_sums = {"end_task": 0.0, "aux": 0.0, "steps": 0}
        return means

    def state(self) -> dict[str, Any]:
        """Returns the part of a checkpoint from which `from_state` resumes."""
        place = [self.phase, self.phase_step, self.step, self.evaluations_without_improvement]
        return {"place": place, "led": self.steps_in_rounds, "best": self.best, "sums": self.loss_sums}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Position:
        """Returns the position of a checkpoint."""
        phase, phase_step, step, without_improvement = state["place"]
        return cls(phase, phase_step, step, without_improvement, state["led"], state["best"], state["sums"])
