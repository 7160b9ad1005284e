"""Studies: plan a grid of runs, run it as processes, collect, fit and draw what it measured."""

from tokenunify_scale.scaling.command import add_arguments, load_study, main

__all__ = ["add_arguments", "load_study", "main"]
