"""The worker: one RQ worker for each device, and a new interpreter for each attempt of a job.

An interpreter of its own initialises CUDA once, and frees all memory of the device at its end, however it ends.
"""
