"""Shows the progress of a job: one line that changes in a terminal, one line for each stage in a log."""

import sys

from taskslim_client.job import Job


class ProgressLines:
    """Writes the states of one job to standard error."""

    def __init__(self) -> None:
        self._in_terminal = sys.stderr.isatty()
        self._last = ""

    def show(self, job: Job) -> None:
        """Write the state of the job; in a log only where its stage or status is new."""
        stage = job.status if job.has_ended else (job.stage or job.status)
        if self._in_terminal:
            left = "" if job.eta_seconds is None else f", {job.eta_seconds:.0f} s left"
            end = "\n" if job.has_ended else ""
            sys.stderr.write(f"\r\x1b[2K{job.id} {job.fraction:4.0%} {stage}{left}{end}")
        elif stage != self._last:
            sys.stderr.write(f"{job.id} {job.fraction:4.0%} {stage}\n")
        self._last = stage
        sys.stderr.flush()
