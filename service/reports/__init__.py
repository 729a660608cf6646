"""The report of a job as an HTML page, its charts, and figures as text."""
