"""The HTML page about runs: `report.report` for any runs, `report.write` at the end of a training."""
