"""The classes of slim models: stock ones, and those whose layers have different widths."""
