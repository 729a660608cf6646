"""A fresh process that prints its arguments, or fails where they are `fail`."""

import json
import sys

from worker.checkpoints.fresh_process import read_arguments

if __name__ == "__main__":
    arguments = read_arguments()
    if arguments == ["fail"]:
        sys.exit("it was told to")
    sys.stdout.write(f"a line before\n{json.dumps(arguments)}\n")
