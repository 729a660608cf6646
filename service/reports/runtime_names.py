"""The names of the runtimes as the report writes them."""

# Name in the contract -> in texts, where the two differ.
RUNTIME_NAMES = {"transformers": "Transformers", "vllm": "vLLM", "sglang": "SGLang"}
