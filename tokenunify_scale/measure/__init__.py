"""Measurements behind the verb benchmark: operations, layers and whole steps, side by side."""
