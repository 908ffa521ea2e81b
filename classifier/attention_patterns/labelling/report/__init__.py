"""The report of a run: one page for the eye, and figures for a paper.

contents.py  the numbers and maps that the page's scripts draw from
document.py  the page as HTML
examples.py  the inputs whose maps the page shows
figures.py   the figures, PNG and SVG
page.py      the page and the figures written into the run folder
palette.py   letters, colours and names that page and figures share
template/    the page's HTML template, styles and scripts
"""

from attention_patterns.labelling.report.page import write_report

__all__ = ["write_report"]
