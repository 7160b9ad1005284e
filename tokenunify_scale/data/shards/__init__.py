"""Shard folders: WebDataset tars of crops with an index, written, read, checked and cached."""
