"""The names of the runtimes as the report writes them."""

from service.contract.options import Format

# Name in the contract -> in texts, where the two differ.
RUNTIME_NAMES = {"transformers": "Transformers", "vllm": "vLLM", "sglang": "SGLang"}
# Format -> the runtime that its files are for.
RUNTIME_OF = {Format.gguf: "llama.cpp", Format.mlx: "mlx-lm", Format.onnx: "onnxruntime"}
