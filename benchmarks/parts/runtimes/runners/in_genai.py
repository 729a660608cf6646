"""Runs in the environment of onnxruntime-genai: the tokens with which it continues others, greedily.

Standard input has one JSON object for each checkpoint: its directory, the tokens, and how many more are asked for.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai


def main() -> None:
    for line in sys.stdin.read().splitlines():
        cell = json.loads(line)
        model = onnxruntime_genai.Model(cell["model"])
        length = len(cell["tokens"]) + cell["count"]
        options = onnxruntime_genai.GeneratorParams(model)
        options.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = onnxruntime_genai.Generator(model, options)
        generator.append_tokens(np.array([cell["tokens"]], dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        Path(cell["answer"]).write_text(json.dumps([int(token) for token in generator.get_sequence(0)]))


if __name__ == "__main__":
    main()
