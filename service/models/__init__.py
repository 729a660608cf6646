"""What the API and the worker know of language models from their files, without loading them."""
