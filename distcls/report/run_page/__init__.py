"""The web page of a run: report.html."""
