"""The oracle's process: read ahead, plan, stream plans to the trainers, report progress.

A shell around `schedule.py`. It answers three questions over its one socket: who is there (every role
registers with `Hello` and gets the `Topology` once all have), what comes next (plans, as far ahead as
each trainer has credit for), and how far are we (`StepDone`, collected into `metrics.jsonl`). Nothing
here imports torch.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bagpipe.batch import Cursor
from bagpipe.checkpoint.store import open_checkpoint
from bagpipe.config import Job
from bagpipe.data.dataset import Dataset, open_dataset
from bagpipe.errors import BagpipeError, ConfigError, PeerLost
from bagpipe.evaluation import Evaluation, evaluate_logits
from bagpipe.net.messages import Hello, Message, NeedPlans, NoMorePlans, Refused, StepDone, Stop, Topology
from bagpipe.net.sockets import Context, Listener, check_hello
from bagpipe.oracle.auto import Resolved, resolve
from bagpipe.oracle.report import Reporter
from bagpipe.oracle.schedule import EvaluationSchedule, TrainingSchedule
from bagpipe.plan import BatchPlan
from bagpipe.planwire import pack_plan

log = logging.getLogger(__name__)
