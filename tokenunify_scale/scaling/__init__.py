"""Studies: plan a grid of runs, run it as processes, collect, fit, compare, draw and report."""
