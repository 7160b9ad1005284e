"""Training data: shards on disk, the stream over them, labelled crops, affinities, augmentation."""
