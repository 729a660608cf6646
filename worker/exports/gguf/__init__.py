"""Slim models as GGUF files for llama.cpp."""
