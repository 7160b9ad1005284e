"""Scaling laws and what may be said of them: fits, intervals, differences, power."""
