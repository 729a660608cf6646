"""Training-free repair of a model before it is cut; `repairs` has the methods by name."""
