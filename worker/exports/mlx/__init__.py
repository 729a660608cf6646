"""Slim models as checkpoints that mlx-lm reads."""
