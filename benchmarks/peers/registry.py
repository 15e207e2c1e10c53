"""Who takes part, by name, in the order of tables."""

from peers.contender import Contender, Peer
from peers.contenders.ours import Ours

CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        Peer("bound", "bound: same model, no row travels", "bound"),
        Ours("ours", "Bagpipe"),
        Ours("ours-auto", "Bagpipe, lookahead and cache auto", automatic=True),
        Ours("ours-uncached", "Bagpipe without its cache", cached=False),
        Peer("torchrec-table", "TorchRec, table-wise", "torchrec_"),
        Peer("torchrec-row", "TorchRec, row-wise", "torchrec_"),
        Peer("torchrec-pipeline", "TorchRec, table-wise, pipelined", "torchrec_"),
        Peer("rpc-unique", "RPC parameter server, unique ids", "rpc_server", servers=True),
        Peer("rpc-all", "RPC parameter server, all ids", "rpc_server", servers=True),
        Peer("ddp-sparse", "DDP, sparse gradients", "ddp_sparse"),
        Peer("published", "published policy: replicate, all-reduce", "published", servers=True, looks_ahead=True),
    )
}
COMPARED = tuple(name for name in CONTENDERS if name != "ours-auto")
"""In the table; what chooses its settings itself belongs beside a sweep of them."""
