"""What a field means where the document leaves it out. The library's defaults: `tests/contract` compares each."""

BATCH_SIZE = 2048
REPLICAS = 1
SERVER_STORAGE = "file"
GPU_PROFILE = "cpu"
TRANSPORT_SECURITY = "auto"
TERMINATION_GRACE_SECONDS = 60
CLAIM_SIZE = "10Gi"
CLAIM_ACCESS_MODE = "ReadWriteOnce"
CLAIM_RETAINED = False
TRAINER_SHM_SIZE = "1Gi"
CHECKPOINT_PATH = "/checkpoints"
"""Where the claim for checkpoints is mounted, unless `checkpoint.path` says where."""
