"""Sources of the code that travels with an exported model; never imported by the package."""
