"""The units of a model, one module for each kind, and the groups that they form."""
