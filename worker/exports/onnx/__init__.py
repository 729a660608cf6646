"""Slim models as graphs for onnxruntime."""
