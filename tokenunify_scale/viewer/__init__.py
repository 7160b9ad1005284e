"""What people look at: a page of the whole volume, neurons in 3-D, and links for Neuroglancer."""
