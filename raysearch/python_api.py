"""What Python has of the command line: launch, open_run, and a run that can be questioned, compared and exported.

    run = raysearch.launch("quickstart")          # or raysearch.open_run("quickstart")
    run                                           # in a notebook: how far it is, what to use, the best configurations
    run.verdict()                                 # what to use and how surely, in words
    run.trials(params=True).to_pandas()           # a column for each dimension
    run.compare(raysearch.open_run("another"))    # what differs, and how surely
    run.export("model")                           # as `raysearch export`

`storage.run.Run` has the tables; this one adds what needs reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.errors import RunError
from raysearch.formatting import format_duration, html_page, html_table
from raysearch.storage import run as storage_run

if TYPE_CHECKING:
    import pyarrow as pa

    from raysearch.config.search_config import Search
    from raysearch.config.sections import Executor
    from raysearch.export.record import Exported
    from raysearch.reports.recommendation import Recommendation
    from raysearch.reports.run_comparison import RunComparison

SHOWN_CONFIGURATIONS = 5  # of a run in a notebook


@dataclass(frozen=True)
class Run(storage_run.Run):
    """A run: its tables, what they say, and what can be done with them. Every call reads the files again."""

    def verdict(self) -> str:
        """Returns what to use of the run and how surely, in sentences."""
        return self.recommend().verdict

    def recommend(self) -> Recommendation:
        """Returns what to use of the run, and what would tell more, each step with its command."""
        from raysearch.reports.recommendation import recommend

        return recommend(self)

    def compare(self, *others: storage_run.Run | str | Path, arm: str = "search") -> RunComparison:
        """Returns other runs, or those at these paths, compared with this one: differences, budgets and verdicts.

        `arm` is the arm to compare, by default the search's winner. Raises RunError for no other run.
        """
        from raysearch.reports.run_comparison import compare_runs

        named = [other if isinstance(other, storage_run.Run) else open_run(other, self.path.parent) for other in others]
        return compare_runs([self, *named], arm)

    def analyze(self, *reports: str | Path) -> dict[str, pa.Table]:
        """Returns the answers of reports by name: of those named, or of all that are shipped."""
        from raysearch.reports.query import analyze

        return analyze(self, reports or None)

    def write_report(self, *reports: str | Path) -> Path:
        """Writes report.html into the run's folder, with the user's own reports added, and returns its path."""
        from raysearch.reports.page import write_html

        return write_html(self, reports)

    def export(self, folder: str | Path, **options: Any) -> Exported:
        """Writes the recommended model to a new folder; options are those of `export.exporter.export`."""
        from raysearch.export.exporter import export

        return export(self, folder, **options)

    def log(self, trial_id: str = "") -> list[str]:
        """Returns a line for everything that happened, or of one trial with its scores and traceback."""
        from raysearch.storage.run_log import log_lines

        return log_lines(self, trial_id)

    def stop(self, patience: float = 60.0) -> bool:
        """Stops the process that works on the run, as Ctrl-C does, and returns whether it has ended in time."""
        from raysearch.storage.stopping import stop_run

        return stop_run(self.path, patience)

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: how far the run is, what to use, and its best configurations."""
        try:
            status, verdict = self.status(), self.verdict()
            rows = self.configurations().slice(0, SHOWN_CONFIGURATIONS).to_pylist()
        except RunError as error:
            return html_page(self.name, [str(error)])
        import json

        columns = ("rank", "arm", "state", "score", "seeds", "params")
        shown = [{name: row[name] for name in columns[:-1]} | {"params": json.loads(row["params"])} for row in rows]
        counts = [{"arm": arm, **count} for arm, count in status["arms"].items()]
        head = f"{status['task']}, {status['metric']}; {status['state']}, {format_duration(status['seconds'])} spent"
        return html_page(f"run {self.name}", [head, verdict], html_table(counts), html_table(shown))


def open_run(name_or_path: str | Path, runs: str | Path = "runs") -> Run:
    """Returns the run of that name in the folder `runs`, or at that path. Raises RunError when there is none."""
    return Run(storage_run.run_folder(name_or_path, runs))


def list_runs(runs: str | Path = "runs") -> list[Run]:
    """Returns the runs of a folder, the one that was written last first."""
    return [Run(Path(runs) / name) for name in storage_run.run_names(runs)]


def compare_runs(runs: Sequence[storage_run.Run | str | Path], arm: str = "search") -> RunComparison:
    """Returns runs, or those of these names and paths, compared with the first one by one arm."""
    first, *others = (each if isinstance(each, storage_run.Run) else open_run(each) for each in runs)
    return Run(first.path).compare(*others, arm=arm)


def launch(
    search: Search | Mapping[str, Any] | str | Path,
    *,
    name: str | None = None,
    address: str | None = None,
    data_root: Path | str | None = None,
    fork: str | None = None,
    extend: bool = False,
    executor: Executor | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Run:
    """Runs a search until its budget is met, and returns the run. A run of that name that exists is resumed.

    The search is one of the catalog by name, a file by path, a mapping with the keys of a file, or what `load_search`
    returns. `address` joins a Ray cluster, otherwise a local one is started; `executor="in_process"` needs no Ray.
    `fork` names a new run; `extend` resumes a run with a larger budget or further seeds; `trust` runs the Python files
    of primitives that the search names without asking. Raises SpecError or RunError,
    one line, before anything starts, and KeyboardInterrupt when the user ends the search.
    """
    from raysearch.config.loading import parse_search
    from raysearch.search import launch as launching

    declared = parse_search(search) if isinstance(search, Mapping) else search
    run = launching.launch(
        declared,
        name=name,
        address=address,
        data_root=data_root,
        fork=fork,
        extend=extend,
        executor=executor,
        progress=progress,
        trust=trust,
    )
    return Run(run.path)
