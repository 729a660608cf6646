"""The HTTP door: one module for each resource."""
