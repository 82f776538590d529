"""Reports on a run: SQL, statistics, pictures and the HTML page."""
