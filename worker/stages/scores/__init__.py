"""The scores of a job's units: measured, and kept for later jobs."""
