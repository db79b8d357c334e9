"""The report: a page, Markdown, CSV and JSON that compare what was timed."""
