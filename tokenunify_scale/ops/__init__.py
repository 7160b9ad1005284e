"""Sequence operations of Mamba, and other loops that are compiled.

Nothing is imported here: what merges fragments does not need torch, which takes two seconds and a
third of a gigabyte of address space to load.
"""
