"""The report and the model card of a job, and the files that it leaves."""
