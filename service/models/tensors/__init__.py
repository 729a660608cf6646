"""The tensors that checkpoints and adapters hold: their names, and which a model needs."""
