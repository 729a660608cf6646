"""Rows and rationales that a language model writes from given rows."""
