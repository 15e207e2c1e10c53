"""Bagpipe from Python: `fit` and its `Run`, frames as data, the transform, and sessions for a user's own loop."""
