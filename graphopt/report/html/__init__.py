"""The report as one self-contained HTML file: no network, no dependencies, names from models always as text.

Pages are built as element trees, which escape every text and attribute by themselves.
"""

from graphopt.report.html.page import render

__all__ = ["render"]
