"""The report of an evaluation: report.json and one HTML page."""
