"""LoRA adapters: merged into their model, or cut to fit a slim one."""
