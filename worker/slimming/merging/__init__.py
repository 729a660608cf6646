"""Merging experts: clusters of similar experts, each of which becomes one expert (UNCURL, arXiv 2409.01483)."""
