"""Runs a model whose weights are larger than the memory: they lie in files, and a pass holds one layer at a time."""
