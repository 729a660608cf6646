"""The process that does the work: one RQ worker per device, one fresh interpreter per job.

A job runs in an interpreter of its own so that CUDA is initialised once and all of its memory goes back at the end,
whatever happened in between.
"""
