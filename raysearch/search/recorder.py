"""Recording: what workers say becomes rows of the ledger, and results for the study. The driver alone does this.

The order is what makes a search survive its driver: a trial is written down as asked before any worker sees it,
committed before Optuna is told of it, and tidied away last.
"""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysearch.executors.broker import TrialEvent
from raysearch.plan import TrialPlan
from raysearch.search.progress import SearchProgress, TrialProgress
from raysearch.search.study import Proposal, Study
from raysearch.storage.ledger import Ledger
from raysearch.storage.states import MAIN_ARM, EventName, TrialRole, TrialState
from raysearch.training.checkpoint import TrialFolder


@dataclass
class RunningTrial:
    """A trial that has been handed out."""

    plan: TrialPlan
    attempt: int
    started: float | None = None  # seconds since the epoch
    device: str = ""
    scores: dict[int, float] = field(default_factory=dict)  # of this attempt, by step
    earlier: dict[int, float] = field(default_factory=dict)  # of attempts before it
    step: int = 0
    seconds: float = 0.0

    @property
    def best(self) -> tuple[float, int] | None:
        """The best score and the first step that has it."""
        sound = [(score, -step) for step, score in self.scores.items() if math.isfinite(score)]
        return (max(sound)[0], -max(sound)[1]) if sound else None

    def line(self, now: float) -> TrialProgress:
        """How progress shows it, at `now` seconds since the epoch."""
        best = self.best
        seconds = None if self.started is None else now - self.started
        return TrialProgress(self.plan.trial_id, self.step, best[0] if best else None, seconds)

    def begin(self, attempt: int, when: float, device: str) -> None:
        """Start, or start again: what was said before will be said again."""
        self.attempt, self.device, self.started = attempt, device, self.started or when
        self.earlier |= self.scores
        self.scores, self.step = {}, 0

    def merge_attempts(self) -> None:
        """There will be no further attempt: what is known is what any of them said."""
        self.scores = self.earlier | self.scores
        self.step = max(self.scores, default=self.step)


class Recorder:
    """Stands between study, ledger and workers; its methods may be called from any thread."""

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        folder: Path,
        *,
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        """Record a run in `folder`; `attempts` says how often trials in flight have been begun before."""
        self.study, self.ledger, self.folder = study, ledger, folder
        self._attempts = dict(attempts or {})
        self.on_commit: Callable[[Mapping[str, Any]], None] | None = None
        self.on_restart: Callable[[str], None] | None = None
        self._lock = threading.RLock()
        self._closed = False
        self.running: dict[str, RunningTrial] = {}
        self._ranked: dict[str, list[tuple[float, str]]] = {}  # of each arm, score and trial of those that are complete
        self._leader: tuple[float, str, Mapping[str, Any]] | None = None
        self._began, self._ended_now = time.monotonic(), 0

    def reconcile(self, committed: Iterable[Mapping[str, Any]], told: Iterable[str]) -> None:
        """Finish for trials of earlier sessions what their drivers could not: events, and tidying."""
        known, rows = set(told), list(committed)
        for row in rows:
            if row["trial_id"] not in known:
                self.ledger.event(
                    EventName.TOLD, row["trial_id"], detail={"state": row["state"], "score": row["score"]}
                )
            self._rank(row)
        for row in rows:
            self._tidy(row["arm"], row["role"], row["trial_id"])

    def close(self) -> None:
        """Take no more: what has not been committed stays for a later session."""
        with self._lock:
            self._closed = True

    @property
    def done(self) -> bool:
        """Is the budget met and everything recorded?"""
        with self._lock:
            return self.study.done

    def ask(self) -> tuple[Proposal, int] | None:
        """The next trial and which attempt at it this is, written down as asked; None if there is none now."""
        with self._lock:
            proposal = None if self._closed else self.study.ask()
            if proposal is None:
                return None
            plan, attempt = proposal.plan, self._attempts.get(proposal.plan.trial_id, 0)
            self.running[plan.trial_id] = RunningTrial(plan, attempt)
            what = {} if proposal.resumed else {"plan": plan.to_dict()}
            name = EventName.RESUMED if proposal.resumed else EventName.ASKED
            self.ledger.event(name, plan.trial_id, attempt, what, durable=True)
            return proposal, attempt

    def handle(self, said: TrialEvent) -> None:
        """Take down one thing that a worker said."""
        with self._lock:
            trial = self.running.get(said.trial_id)
            if trial is None or self._closed:
                return
            if said.kind == "started":
                self._started(trial, said)
            elif said.kind == "reports":
                self._reported(trial, said)
            elif said.kind == "lost":
                self.ledger.event(EventName.LOST, said.trial_id, said.attempt, {"why": said.why})
            elif said.kind == "ended":
                self._ended(trial, said)

    def _started(self, trial: RunningTrial, said: TrialEvent) -> None:
        trial.begin(said.attempt, said.time, said.device)
        self.ledger.event(EventName.STARTED, said.trial_id, said.attempt, {"device": said.device}, durable=True)

    def _reported(self, trial: RunningTrial, said: TrialEvent) -> None:
        whose = {"trial_id": said.trial_id, "attempt": said.attempt}
        for report in said.reports:
            if report.restart_reason:
                self.ledger.event(EventName.RESTARTED, said.trial_id, said.attempt, {"why": report.restart_reason})
                if self.on_restart:
                    self.on_restart(report.restart_reason)
            self.ledger.append("evaluations", [report.evaluation], fill=whose)
            if report.weights is not None:
                self.ledger.append("weights", report.weights, fill=whose)
            trial.step = report.step
            trial.seconds = report.evaluation.get("seconds") or trial.seconds
            score = report.evaluation.get("score")
            if score is not None:
                trial.scores[report.step] = score

    def _ended(self, trial: RunningTrial, said: TrialEvent) -> None:
        """Commit, tell, tidy: in this order."""
        plan, state, why = trial.plan, said.state, said.why
        if state == TrialState.FAILED:
            trial.merge_attempts()
        score, best_step = trial.best or (None, None)
        if state == TrialState.COMPLETE and score is None:
            state, why = TrialState.FAILED, "it ended without a score"
        began = said.time if trial.started is None else trial.started
        seconds = trial.seconds or max(0.0, said.time - began)
        row = {
            "trial_id": said.trial_id,
            "arm": plan.arm,
            "role": plan.role,
            "number": plan.number,
            "seed": plan.seed,
            "state": state,
            "why": why or "took all its steps",
            "score": score,
            "best_step": best_step,
            "steps": trial.step,
            "attempts": said.attempt + 1,
            "started": datetime.fromtimestamp(began, UTC),
            "ended": datetime.now(UTC),
            "seconds": seconds,
            "workers": plan.workers,
            "device": trial.device,
            "params": json.dumps(plan.params, sort_keys=True),
            "plan": plan.to_json(),
        }
        self.ledger.commit(
            row, [(EventName.FAILED, {"why": why.strip().splitlines()[-1]})] if state == TrialState.FAILED else ()
        )
        self.study.tell(said.trial_id, state, score, trial.step, seconds)
        self.ledger.event(EventName.TOLD, said.trial_id, said.attempt, {"state": state, "score": score})
        del self.running[said.trial_id]
        self._ended_now += 1
        self._rank(row)
        self._tidy(plan.arm, plan.role, said.trial_id)
        if self.on_commit:
            self.on_commit(row)

    def _rank(self, row: Mapping[str, Any]) -> None:
        if (
            row["state"] != TrialState.COMPLETE or row["role"] != TrialRole.SEARCH
        ):  # a repetition is not what will be exported
            return
        score, name = row["score"], row["trial_id"]
        self._ranked.setdefault(row["arm"], []).append((score, name))
        if row["arm"] == MAIN_ARM and (self._leader is None or score > self._leader[0]):
            self._leader = score, name, json.loads(row["params"])

    def _tidy(self, arm: str, role: str, trial_id: str) -> None:
        """Keep the trained models of the arm's best trials, and nothing else of those that have ended."""
        confirm = self.study.search.confirm
        if role == TrialRole.CONFIRM and confirm is not None and confirm.keep:
            TrialFolder(self.folder / "trials" / trial_id).clear()
            return
        keep, ranked = self.study.search.keep, sorted(self._ranked.get(arm, []), reverse=True)
        kept = {name for _, name in (ranked if keep < 0 else ranked[:keep])}
        for name in {trial_id, *(name for _, name in ranked[keep : keep + 1])} if keep >= 0 else {trial_id}:
            place = self.folder / "trials" / name
            if name in kept:
                TrialFolder(place).clear()
            else:
                shutil.rmtree(place, ignore_errors=True)

    def search_progress(self) -> SearchProgress:
        """Where the search stands."""
        with self._lock:
            study, now = self.study, time.time()
            return SearchProgress(
                counts=study.counts,
                expected=study.expected,
                seconds=study.seconds,
                limit=study.search.budget.seconds,
                session=(self._ended_now, time.monotonic() - self._began),
                best=self._leader,
                running=[trial.line(now) for trial in self.running.values()],
            )
