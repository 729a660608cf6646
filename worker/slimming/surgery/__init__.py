"""Surgery: how the tensors of a model are cut, and what its config says afterwards."""
