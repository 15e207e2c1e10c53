"""Bagpipe: exact distributed training of deep recommendation models.

The public surface is small: `init_cache` (the paper's trainer API), `BagCache`, `register_model`,
and the `bagpipe` command. torch is imported only when something that needs it is asked for, so
that the oracle and the embedding servers run without it.
"""

__version__ = "0.1.0"
