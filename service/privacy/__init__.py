"""Rows whose tokens and labels are replaced at random before they leave the client, with differential privacy.

docs/privacy.md states what is guaranteed and what is not. The modules need the extra `privacy`.
"""
