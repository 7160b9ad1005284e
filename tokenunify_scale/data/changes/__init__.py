"""What augmentation does to a crop, one kind of change a module, and a sheet that shows them."""
