"""A plugin of vLLM: registers the classes of Taskslim checkpoints whose layers have different widths."""

STOCK_CLASSES = ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3")


def register() -> None:
    """Tell vLLM where these classes are. It calls this in each of its processes, and imports a class when needed."""
    from vllm import ModelRegistry

    for stock in STOCK_CLASSES:
        name = f"PerLayer{stock}ForCausalLM"
        ModelRegistry.register_model(name, f"taskslim_vllm.models:{name}")
