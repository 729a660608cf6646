"""The model families: what the API and the worker know of each architecture without loading a model."""
