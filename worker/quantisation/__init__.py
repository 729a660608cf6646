"""Quantised copies of a slim model: rounds the weights of its layers, computes with them, stores and verifies them."""
