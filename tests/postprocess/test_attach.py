"""Boundary voxels follow their strong edges."""

import numpy as np

from tokenunify_scale.postprocess.attach import attach


def run(flooded, joined, border, linked=None):
    """A row of voxels; ``joined`` are the edges to the voxel before."""
    edges = np.stack([np.zeros((1, len(joined))), [joined]]).astype(np.float32)
    voxels = np.array([flooded], np.int64)
    found, count = attach(
        voxels,
        int(voxels.max()),
        edges,
        border=np.array([border], bool),
        linked=np.array([linked or [0] * len(joined)], bool),
        least=0.5,
    )
    return found[0].tolist(), count


def test_a_boundary_voxel_goes_where_its_strongest_edge_leads_whoever_flooded_it():
    assert run([1, 1, 1, 2], [0, 1, 0.2, 0.9], [0, 0, 1, 0]) == ([1, 1, 2, 2], 2)
    assert run([1, 2, 2, 2], [0, 0.9, 0.8, 1], [0, 1, 0, 0]) == ([1, 1, 2, 2], 2)


def test_voxels_that_lead_nowhere_keep_what_flooded_them_or_are_a_fragment_of_their_own():
    assert run([1, 1, 2], [0, 0, 0], [0, 1, 0]) == ([1, 1, 2], 2)
    assert run([1, 1, 1, 2], [0, 0, 1, 0], [0, 1, 1, 0]) == ([1, 3, 3, 2], 3)
    assert run([1, 1, 2], [0, 0, 0], [0, 1, 0], linked=[0, 1, 0]) == ([1, 3, 2], 3)


def test_a_path_is_as_strong_as_its_weakest_edge():
    assert run([1, 1, 1, 1, 2], [0, 0.6, 0.9, 0.9, 0.8], [0, 1, 1, 1, 0]) == ([1, 2, 2, 2, 2], 2)
