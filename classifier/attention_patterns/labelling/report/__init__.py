"""The report of a run: one page for the eye, and figures for a paper."""

from attention_patterns.labelling.report.page import write_report

__all__ = ["write_report"]
