"""Runs in the environment of vLLM: the log-probabilities of all tokens at every position of a prompt.

Standard input has one JSON object for each checkpoint; `options` are arguments of `LLM`. Beside the answer it writes
how many tokens a second are generated, or read where the model classifies.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

SHORT: dict[str, Any] = {"enforce_eager": True, "max_model_len": 64, "max_num_seqs": 2, "max_logprobs": -1, "seed": 0}
GENERATED = 32


def main() -> None:
    lines = sys.stdin.read().splitlines()
    for done, line in enumerate(lines, 1):
        cell = json.loads(line)
        size = sum(path.stat().st_size for path in Path(cell["model"]).glob("*.safetensors"))
        told = Path(cell["answer"] + ".json")
        try:
            told.write_text(json.dumps({"bytes": size, "tokens_per_second": answer(cell)}))
        except Exception as error:  # whatever the class of a model raises is the result
            told.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"[:500]}))
            # vLLM does not recover in the same process
            subprocess.run([sys.executable, *sys.argv], input="\n".join(lines[done:]), text=True, check=True)
            return
        cleanup_dist_env_and_memory()


def answer(cell: dict[str, Any]) -> float:
    """Write the answer; tokens a second."""
    llm = LLM(cell["model"], dtype="float32", skip_tokenizer_init=True, **SHORT, **cell["options"])
    prompts = [{"prompt_token_ids": row} for row in load_file(cell["inputs"])["input_ids"].tolist()]
    if cell["classifies"]:
        started = time.perf_counter()
        found = [llm.classify(prompt, use_tqdm=False)[0].outputs.probs for prompt in prompts]
        save_file({"probabilities": torch.tensor(found)}, cell["answer"])
        return sum(len(prompt["prompt_token_ids"]) for prompt in prompts) / (time.perf_counter() - started)
    asked = SamplingParams(max_tokens=1, prompt_logprobs=-1, detokenize=False)
    outputs = [llm.generate(prompt, asked, use_tqdm=False)[0].prompt_logprobs[1:] for prompt in prompts]
    rows = [[[told[token].logprob for token in range(len(told))] for told in output] for output in outputs]
    save_file({"log_probabilities": torch.tensor(rows)}, cell["answer"])
    told = SamplingParams(max_tokens=GENERATED, min_tokens=GENERATED, temperature=0, detokenize=False)
    started = time.perf_counter()
    llm.generate(prompts[0], told, use_tqdm=False)
    return GENERATED / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
