"""When a checkpoint becomes one: rank 0 collects what everybody wrote and writes the manifest last.

The plan says after which step a checkpoint is taken; every trainer then writes its rows back, flagged,
and each embedding server snapshots exactly that step while training goes on. Rank 0 writes the dense
weights, waits for the shards between steps, and only then the manifest: no manifest, no checkpoint.
"""

import time
from pathlib import Path

import torch
from torch import nn

from bagpipe.batch import Cursor
from bagpipe.checkpoint.store import CheckpointStore, Draft
from bagpipe.errors import PeerLost
from bagpipe.trainer.dense import load_dense, save_dense
from bagpipe.trainer.membership import Membership

ASK_SECONDS = 0.5
"""Time between questions to the shards while they write."""
