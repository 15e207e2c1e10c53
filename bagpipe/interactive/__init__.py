"""Bagpipe from Python: `fit` and its `Run`, frames as data, the transform, and sessions for loops of one's own."""
