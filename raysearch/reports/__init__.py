"""Reports on a run: SQL, statistics, plots and the HTML page."""
