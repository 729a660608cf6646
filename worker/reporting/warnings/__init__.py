"""What the report of a job warns of."""
