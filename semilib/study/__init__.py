"""Which runs a table of the study needs, doing them anywhere, and the printed sheet."""
