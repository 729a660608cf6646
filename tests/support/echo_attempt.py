"""Waits for an attempt as `worker.attempts.process` does, without its imports, and writes what it was to run.

Usage: python -m tests.support.echo_attempt FILE
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    line = sys.stdin.readline()
    if line:
        Path(sys.argv[1]).write_text(f"{os.getpid()} {line}")
