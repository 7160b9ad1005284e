"""Crops as sequences of patches: cutting, visiting orders, masks."""
