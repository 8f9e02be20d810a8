"""A run's report: one HTML file that needs nothing else, drawn from the journal."""

from coralx.report.page import write_report

__all__ = ["write_report"]
