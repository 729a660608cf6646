"""Slim models in the runtimes that serve them: are the logits those of the masked dense model, and how fast is it?

    .venv/bin/python benchmarks/runtimes.py [--quick] [--only WAY ...]

Small random models of each family, in both layouts, in every way that the plan of a job promises. Each runtime has an
environment of its own, which the first run installs (vLLM takes 3.3 GB); a runtime that cannot be installed is listed
with the reason. The speeds of models this small say little; they show that both models run. The last line is one JSON
object: `runtimes_equal` is the share of the promised pairs that hold, of those that were run;
`demo_parameters_removed`, `demo_points_lost` and `slim_q8_bytes_share` are those of the recorded run of `make demo`
(results/demo.json).
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # Python adds only the directory of the script

from transformers.utils import logging

from benchmarks.parts.runtimes.measure import measure
from benchmarks.parts.runtimes.pairs import WAYS, cases, promised_pairs
from benchmarks.parts.runtimes.slim_models import write_case
from benchmarks.parts.runtimes.table import demo_summary, summary, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only the families that more than one runtime loads")
    parser.add_argument(
        "--only", nargs="+", choices=WAYS, default=[*WAYS], metavar="WAY", help=f"only these: {', '.join(WAYS)}"
    )
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory(prefix="runtimes-") as directory:
        scratch = Path(directory)
        written = {case: write_case(case, scratch) for case in cases(quick=arguments.quick)}
        pairs = [pair for pair in promised_pairs(written, quick=arguments.quick) if pair.way in arguments.only]
        measured = list(measure(pairs, written, scratch))
    print(table(measured))
    print(json.dumps(summary(measured) | demo_summary(ROOT / "benchmarks" / "results" / "demo.json")))


if __name__ == "__main__":
    main()
