"""The recorder: turns the events of trials into rows of the ledger and results for the study. Only the driver has one.

A search survives the loss of its driver because of the order in which things are written: a trial is recorded as asked
before a worker sees it, committed before the study is told of it, and its files are tidied last.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysearch.executors.messages import EventKind, TrialEvent
from raysearch.plan import TrialPlan
from raysearch.search.model_files import ModelFiles
from raysearch.search.progress import SearchProgress, TrialProgress
from raysearch.search.study import Study
from raysearch.search.time_estimate import Timings
from raysearch.storage.ledger import Ledger
from raysearch.storage.states import MAIN_ARM, EventName, TrialRole, TrialState


@dataclass
class RunningTrial:
    """A trial that has been handed out and has not ended."""

    plan: TrialPlan
    attempt: int
    started: float | None = None  # seconds since 1970
    device: str = ""
    scores: dict[int, float] = field(default_factory=dict)  # of this attempt, by step
    earlier_scores: dict[int, float] = field(default_factory=dict)  # of the attempts before
    step: int = 0
    seconds: float = 0.0  # in training

    @property
    def best(self) -> tuple[float, int] | None:
        """The score that counts, and its step: the best and first one, unless the plan says otherwise, see `Trial`."""
        finite = [(score, -step) for step, score in self.scores.items() if math.isfinite(score)]
        if self.plan.folds and finite:
            last = max(self.scores)
            return None if self.plan.is_refit else (self.scores[last], last)
        if math.isfinite(score := self.scores.get(self.plan.score_step, math.nan)):
            return score, self.plan.score_step
        return (max(finite)[0], -max(finite)[1]) if finite else None

    def progress(self, now: float) -> TrialProgress:
        """Returns what the live panel shows, at `now` seconds since 1970."""
        best = self.best
        seconds = None if self.started is None else now - self.started
        return TrialProgress(self.plan.trial_id, self.step, best[0] if best else None, seconds)

    def begin(self, attempt: int, when: float, device: str) -> None:
        """Starts an attempt, which will report the scores of the one before again."""
        self.attempt, self.device, self.started = attempt, device, self.started or when
        self.earlier_scores |= self.scores
        self.scores, self.step = {}, 0

    def merge_attempts(self) -> None:
        """Merges the scores of all attempts; called when the trial has failed for good."""
        self.scores = self.earlier_scores | self.scores
        self.step = max(self.scores, default=self.step)

    def row(self, event: TrialEvent) -> dict[str, Any]:
        """Returns the trial's row of the table of trials, given the event of its end."""
        state, why = event.state, event.why
        if state == TrialState.FAILED:
            self.merge_attempts()
        score, best_step = self.best or (None, None)
        if state == TrialState.COMPLETE and score is None and not self.plan.is_refit:
            state, why = TrialState.FAILED, "it ended without a score"
        if self.plan.is_refit:
            best_step = self.step
        started = event.time if self.started is None else self.started
        return {
            "trial_id": event.trial_id,
            "arm": self.plan.arm,
            "role": self.plan.role,
            "number": self.plan.number,
            "seed": self.plan.seed,
            "state": str(state),
            "why": why or "took all its steps",
            "score": score,
            "best_step": best_step,
            "steps": self.step,
            "attempts": event.attempt + 1,
            "started": datetime.fromtimestamp(started, UTC),
            "ended": datetime.now(UTC),
            "seconds": self.seconds or max(0.0, event.time - started),
            "workers": self.plan.workers,
            "device": self.device,
            "params": json.dumps(self.plan.params, sort_keys=True),
            "plan": self.plan.to_json(),
        }


class Recorder:
    """Stands between study, ledger and workers. Its methods may be called from any thread."""

    def __init__(
        self,
        study: Study,
        ledger: Ledger,
        folder: Path,
        *,
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        """Records a run in `folder`; `attempts` says how often each trial has been started before."""
        self.study, self.ledger, self.folder = study, ledger, folder
        self.on_commit: Callable[[Mapping[str, Any]], None] | None = None  # called with the row of a trial that ended
        self.on_restart: Callable[[str], None] | None = None  # called with the reason why a checkpoint was not used
        self.running: dict[str, RunningTrial] = {}
        self._attempts = dict(attempts or {})
        self._models = ModelFiles(study.search, folder)
        self._lock = threading.RLock()
        self._closed = False
        self.on_start: Callable[[TrialPlan], None] | None = None  # called with the plan of a trial that begins
        self.committed = 0  # trials, of all sessions
        self._first_start: float | None = None  # of this session, seconds since 1970
        self._ended: dict[str, list[float]] = {}  # by arm, the times of trials that have ended in this session
        self._finals: Counter[str] = Counter()  # by arm, trials of its winner that were handed out

    def reconcile(
        self, committed: Iterable[Mapping[str, Any]], reported: Iterable[str], noted: Iterable[str] | None = None
    ) -> None:
        """Does for trials of earlier sessions what their driver could not: writes events, and tidies files.

        `committed`: rows of the table of trials; `reported`: the trials of which an event says that the study was told;
        `noted`: those of which an event says that they were committed, None if all are.
        """
        known, rows = set(reported), list(committed)
        has_event = {row["trial_id"] for row in rows} if noted is None else set(noted)
        for row in rows:
            if row["trial_id"] not in has_event:
                attempt, trial_id = max(0, (row["attempts"] or 1) - 1), row["trial_id"]
                detail = {"state": row["state"], "score": row["score"]}
                self.ledger.event(EventName.COMMITTED, trial_id, attempt, detail)
                if row["state"] == TrialState.FAILED:
                    why = {"why": row["why"].strip().splitlines()[-1]}
                    self.ledger.event(EventName.FAILED, trial_id, attempt, why)
        self.committed = len(rows)
        self._finals.update(row["arm"] for row in rows if row["role"] != TrialRole.SEARCH)
        for row in rows:
            if row["trial_id"] not in known:
                self.ledger.event(EventName.TOLD, row["trial_id"], detail=self._result(row["trial_id"], row))
            self._models.add(row)
        self._models.tidy(rows)

    def close(self) -> None:
        """Ignores further events; a trial that has not been committed stays for a later session."""
        with self._lock:
            self._closed = True

    @property
    def done(self) -> bool:
        """Says whether the budget is met and everything is recorded."""
        with self._lock:
            return self.study.done

    def next_trial(self) -> tuple[TrialPlan, int] | None:
        """Returns the next plan and the number of its attempt, recorded as asked; None if there is none now."""
        with self._lock:
            proposal = None if self._closed else self.study.ask()
            if proposal is None:
                return None
            plan, attempt = proposal.plan, self._attempts.get(proposal.plan.trial_id, 0)
            self.running[plan.trial_id] = RunningTrial(plan, attempt)
            self._finals.update([plan.arm] if plan.role != TrialRole.SEARCH else [])
            detail = {} if proposal.resumed else {"plan": plan.to_dict()}
            name = EventName.RESUMED if proposal.resumed else EventName.ASKED
            self.ledger.event(name, plan.trial_id, attempt, detail, durable=True)
            return plan, attempt

    def handle(self, event: TrialEvent) -> None:
        """Records one event."""
        with self._lock:
            trial = self.running.get(event.trial_id)
            if trial is None or self._closed:
                return
            if event.kind == EventKind.STARTED:
                trial.begin(event.attempt, event.time, event.device)
                detail = {"device": event.device}
                self.ledger.event(EventName.STARTED, event.trial_id, event.attempt, detail, durable=True)
                self._first_start = self._first_start or event.time
                if self.on_start:
                    self.on_start(trial.plan)
            elif event.kind == EventKind.REPORTS:
                self._record_reports(trial, event)
            elif event.kind == EventKind.LOST:
                self.ledger.event(EventName.LOST, event.trial_id, event.attempt, {"why": event.why})
            elif event.kind == EventKind.ENDED:
                self._record_end(trial, event)

    def _record_reports(self, trial: RunningTrial, event: TrialEvent) -> None:
        key = {"trial_id": event.trial_id, "attempt": event.attempt}
        for report in event.reports:
            if report.restart_reason:
                detail = {"why": report.restart_reason}
                self.ledger.event(EventName.RESTARTED, event.trial_id, event.attempt, detail)
                if self.on_restart:
                    self.on_restart(report.restart_reason)
            self.ledger.append("evaluations", [report.evaluation], fill=key)
            if report.weights is not None:
                self.ledger.append("weights", report.weights, fill=key)
            if report.predictions is not None:
                self.ledger.append("predictions", report.predictions, fill=key)
            trial.step = report.step
            trial.seconds = report.evaluation.get("seconds") or trial.seconds
            score = report.evaluation.get("score")
            if score is not None:
                trial.scores[report.step] = score

    def _record_end(self, trial: RunningTrial, event: TrialEvent) -> None:
        """Commits the trial, tells the study, tidies files: in this order."""
        row = trial.row(event)
        state, score = row["state"], row["score"]
        failure = (EventName.FAILED, {"why": row["why"].strip().splitlines()[-1]})
        self.ledger.commit(row, [failure] if state == TrialState.FAILED else ())
        self.study.tell(event.trial_id, state, score, row["steps"], row["seconds"], row["best_step"] or 0)
        self.ledger.event(EventName.TOLD, event.trial_id, event.attempt, self._result(event.trial_id, row))
        del self.running[event.trial_id]
        self.committed += 1
        self._ended.setdefault(row["arm"], []).append(event.time - (trial.started or event.time))
        self._models.add(row)
        self._models.tidy([row])
        if self.on_commit:
            self.on_commit(row)

    def _result(self, trial_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what the study was told of a trial, and whether the race dropped its configuration on that."""
        drop = self.study.drop_after(trial_id)
        return {"state": row["state"], "score": row["score"]} | ({"dropped": drop.to_dict()} if drop else {})

    def progress(self) -> SearchProgress:
        """Returns what the live panel shows."""
        with self._lock:
            study, now, best = self.study, time.time(), self._models.best(MAIN_ARM)
            running = [
                (trial.plan.arm, now - trial.started if trial.started else 0.0) for trial in self.running.values()
            ]
            finals = len(study.search.final_cells)
            return SearchProgress(
                counts=study.counts,
                expected=study.expected,
                seconds=study.seconds,
                limit=study.search.budget.seconds,
                timings=Timings(
                    elapsed=now - (self._first_start or now),
                    ended={arm: list(times) for arm, times in self._ended.items()},
                    running=running,
                    to_come=study.to_come,
                ),
                final_trials={arm: max(0, finals - self._finals[arm]) for arm in study.search.arms},
                best=None if best is None else (best["score"], best["trial_id"], json.loads(best["params"])),
                running=[trial.progress(now) for trial in self.running.values()],
            )
