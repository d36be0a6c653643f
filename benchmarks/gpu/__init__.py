"""Everything that is open until a GPU is at hand, measured there by one command: see `__main__`."""
