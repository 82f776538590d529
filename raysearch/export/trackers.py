"""Copies a run's scores and weights to TensorBoard or MLflow, from the run's tables.

The tables are the record; a tracker gets a copy. It is written by a process of its own (`search.log_follower`), so that
a tracker that is lost or slow neither stops nor slows a trial, and may be filled at any later time. Rows that a tracker
has already are not sent again: each trial's last step is remembered, by MLflow in a tag, and TensorBoard's files are
written again from the start.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raysearch.errors import RunError
from raysearch.storage.names import is_plain
from raysearch.storage.run import planned_trials
from raysearch.storage.states import TrialState

if TYPE_CHECKING:
    from raysearch.storage.run import Run

_MEASURED = ("score", "loss", "train_loss", "aux_loss", "lambda_e")  # columns of the table of evaluations
_UNNAMED = re.compile(r"[^\w./ :-]")  # what MLflow takes in no name
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # of one request to MLflow
_SUFFIX = ".raysearch"  # of TensorBoard's files that are ours


@dataclass(frozen=True)
class Scalar:
    """One number of a trial."""

    name: str
    step: int
    value: float
    time: float  # s since 1970


@dataclass(frozen=True)
class TrialUpdate:
    """What a tracker does not have of a trial yet."""

    trial_id: str
    plan: Mapping[str, Any]
    scalars: Sequence[Scalar]
    ended: Mapping[str, Any] | None  # its row, once it has ended


class Tracker(Protocol):
    """A place that gets a copy of the scores."""

    def last_step(self, trial_id: str) -> int:
        """Returns the last step of a trial that the tracker has; -1 without."""

    def write(self, update: TrialUpdate) -> None:
        """Writes what is new of a trial."""


@dataclass
class LogCopy:
    """Copies a run to trackers, again and again while it grows."""

    run: Run
    trackers: Sequence[Tracker]
    _sent: dict[tuple[int, str], tuple[int, bool]] = field(default_factory=dict)  # last step, and whether it had ended

    def update(self) -> int:
        """Sends what is new to every tracker and returns the number of scalars. Raises whatever a tracker raises."""
        plans = planned_trials(self.run.events())
        rows = self.run.trials().drop_columns(["started", "ended"]).to_pylist()
        ended = {row["trial_id"]: row for row in rows}
        for row in rows:  # a run of which the events are lost
            plans.setdefault(row["trial_id"], json.loads(row["plan"] or "{}"))
        scalars = _scalars(self.run)
        count = 0
        for number, tracker in enumerate(self.trackers):
            for trial_id, plan in plans.items():
                if not is_plain(trial_id):
                    raise RunError(f"{self.run.path}: {trial_id!r} is no name of a trial")
                last, had_ended = self._sent.get((number, trial_id)) or (tracker.last_step(trial_id), False)
                new = [scalar for scalar in scalars.get(trial_id, ()) if scalar.step > last]
                has_ended = trial_id in ended
                if new or has_ended != had_ended:
                    tracker.write(TrialUpdate(trial_id, plan, new, ended.get(trial_id)))
                    count += len(new)
                self._sent[number, trial_id] = (max([last, *(scalar.step for scalar in new)]), has_ended)
        return count


def _scalars(run: Run) -> dict[str, list[Scalar]]:
    """Returns every number that a trial has reported, by trial, in the order of steps."""
    by_trial: dict[str, list[Scalar]] = {}
    times: dict[str, float] = {}
    for row in _with_seconds(run.evaluations()):
        times[row["trial_id"]] = row["time"]
        for name in _MEASURED:
            value = row[name]
            if value is not None and math.isfinite(value):
                label = f"{row['split']}/{row['metric']}" if name == "score" else f"{row['split']}/{name}"
                by_trial.setdefault(row["trial_id"], []).append(Scalar(label, row["step"], value, row["time"]))
    for row in run.weights().to_pylist():
        if row["weight"] is not None and math.isfinite(row["weight"]):
            name = "/".join(part for part in ("weight", row["kind"], row["stage"], row["name"]) if part)
            scalar = Scalar(_UNNAMED.sub("_", name), row["step"], row["weight"], times.get(row["trial_id"], 0.0))
            by_trial.setdefault(row["trial_id"], []).append(scalar)
    return {trial_id: sorted(scalars, key=lambda each: each.step) for trial_id, scalars in by_trial.items()}


def _with_seconds(table: pa.Table) -> Iterator[dict[str, Any]]:
    times = pc.cast(table["time"], pa.int64()).to_pylist()
    for row, time in zip(table.drop_columns(["time"]).to_pylist(), times, strict=True):
        yield row | {"time": (time or 0) / 1e6}


class TensorBoardTracker:
    """Event files of TensorBoard, a folder for each trial: FOLDER/RUN/TRIAL."""

    def __init__(self, folder: Path, run: str) -> None:
        """Writes to a folder below `folder`. Raises RunError without the package that writes such files."""
        try:
            import tensorboardX  # noqa: F401 - whether it is installed
        except ImportError:
            raise RunError("TensorBoard's files need tensorboardX; pip install 'raysearch[tensorboard]'") from None
        self.folder, self._begun, self._files = folder / run, set[str](), 0

    def last_step(self, trial_id: str) -> int:  # noqa: ARG002 - see below
        """Returns -1, because each process writes the files of a trial from the start."""
        return -1

    def write(self, update: TrialUpdate) -> None:
        """Adds the numbers to the trial's file; the values that were drawn go with the final score."""
        from tensorboardX import SummaryWriter
        from tensorboardX.summary import hparams

        folder = self.folder / update.trial_id
        if update.trial_id not in self._begun:
            self._begun.add(update.trial_id)
            for file in folder.glob(f"events.out.tfevents.*{_SUFFIX}"):
                file.unlink()
        self._files += 1
        with SummaryWriter(str(folder), filename_suffix=f".{self._files:06d}{_SUFFIX}") as writer:
            for each in update.scalars:
                writer.add_scalar(each.name, each.value, each.step, walltime=each.time)
            if update.ended is not None and update.ended["score"] is not None:
                drawn = {name: v for name, v in update.plan.get("params", {}).items() if v is not None}
                for summary in hparams(drawn, {"score": update.ended["score"]}):
                    writer.file_writer.add_summary(summary)
                writer.add_scalar("score", update.ended["score"], update.ended["best_step"] or 0)


class MlflowTracker:
    """An experiment of MLflow named like the run, with an MLflow run for each trial."""

    def __init__(self, uri: str, run: str) -> None:
        """Opens the tracking server or store of that address. Raises RunError without the package."""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise RunError("MLflow needs its package; pip install 'raysearch[mlflow]'") from None
        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(run)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(run)
        self._runs: dict[str, Any] = {}

    def _find(self, trial_id: str) -> Any:
        """Returns the MLflow run of a trial, or None."""
        if trial_id not in self._runs:
            filters = f"tags.`raysearch.trial` = '{trial_id}'"
            known = self._client.search_runs([self._experiment], filter_string=filters, max_results=1)
            if not known:
                return None
            self._runs[trial_id] = known[0]
        return self._runs[trial_id]

    def last_step(self, trial_id: str) -> int:
        """Returns the last step of a trial that MLflow has, from a tag; -1 without."""
        known = self._find(trial_id)
        return -1 if known is None else int(known.data.tags.get("raysearch.last_step", -1))

    def write(self, update: TrialUpdate) -> None:
        """Adds numbers, and at the end the state; the first time also the settings."""
        from mlflow.entities import Metric, Param

        run = self._find(update.trial_id)
        if run is None:
            plan = update.plan
            tags = {"raysearch.trial": update.trial_id, "mlflow.runName": update.trial_id}
            tags |= {f"raysearch.{name}": str(plan.get(name, "")) for name in ("arm", "role", "number", "seed")}
            start = int(1000 * update.scalars[0].time) if update.scalars else None
            run = self._client.create_run(self._experiment, start_time=start, tags=tags)
            self._runs[update.trial_id] = run
            settings = {**plan.get("settings", {}), **plan.get("params", {})}
            params = [Param(_UNNAMED.sub("_", name), str(value)[:500]) for name, value in settings.items()]
            for first in range(0, len(params), _MOST_PARAMS):
                self._client.log_batch(run.info.run_id, params=params[first : first + _MOST_PARAMS])
        metrics = [Metric(each.name, each.value, int(1000 * each.time), each.step) for each in update.scalars]
        for first in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(run.info.run_id, metrics=metrics[first : first + _MOST_METRICS])
        if update.scalars:
            self._client.set_tag(run.info.run_id, "raysearch.last_step", str(update.scalars[-1].step))
        if update.ended is not None:
            if update.ended["score"] is not None:
                self._client.log_metric(run.info.run_id, "score", update.ended["score"], step=update.ended["best_step"])
            states = {TrialState.STOPPED: "KILLED", TrialState.FAILED: "FAILED"}
            status = states.get(update.ended["state"], "FINISHED")
            end = int(1000 * update.scalars[-1].time) if update.scalars else None
            self._client.set_terminated(run.info.run_id, status, end)


def open_trackers(run: str, tensorboard: Path | None, mlflow: str | None) -> list[Tracker]:
    """Returns the trackers that a user names. Raises RunError for none, or one whose package is missing."""
    trackers: list[Tracker] = [TensorBoardTracker(tensorboard, run)] if tensorboard is not None else []
    trackers += [MlflowTracker(mlflow, run)] if mlflow else []
    if not trackers:
        raise RunError("name a tracker: --tensorboard FOLDER, or --mlflow ADDRESS")
    return trackers
