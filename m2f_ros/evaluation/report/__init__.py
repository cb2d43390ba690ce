"""The report of an evaluation: one page of HTML, the same as Markdown, and the result as JSON."""
