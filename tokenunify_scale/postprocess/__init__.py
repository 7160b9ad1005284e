"""From affinities to neurons: fragments by watershed, then agglomeration.

Each method enters POSTPROCESS as ``segment(options, affinities) -> (segmentation, fragments)``.
"""
