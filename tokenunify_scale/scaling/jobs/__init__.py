"""Jobs as processes, here or under Slurm: states in their folders, locks, retries, a live table."""
