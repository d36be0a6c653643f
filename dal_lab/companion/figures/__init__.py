"""The papers' figures, drawn from tidy rows."""
