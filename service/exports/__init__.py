"""Which formats of other runtimes can hold a slim model."""
