"""From affinities to neurons: fragments, the graph of who touches whom, and its partition.

Each method enters POSTPROCESS as ``segment(config, affinities, *, offsets)``, which gives
segmentations by threshold, and the fragments; ``phases`` has its steps one by one, for blocks.
"""
