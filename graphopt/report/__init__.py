"""Reports: results as tables for a terminal, as Markdown and as JSON."""
