"""What a model needs to be loaded elsewhere: its code in one file, its weights in pieces."""
