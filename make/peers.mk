# The benchmark against peers. They live in an environment of their own: .venv-peers.
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed
PEERS_PIP := $(PEERS)/bin/python -m pip --disable-pip-version-check --quiet
# torchrec asks for fbgemm-gpu, whose files would overwrite the CPU build's: hence its own requirements by name.
TORCHREC := torchrec==1.8.0
TORCHREC_NEEDS := fbgemm-gpu-cpu==1.8.0 pyre-extensions==0.0.32 tensordict==0.15.3 torchmetrics==1.0.3 tqdm psutil
PEERS_RUN = PYTHONPATH=benchmarks OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(PEERS)/bin/python -m peers

SWEEPS := lookahead cache batch dim skew trainers bandwidth

.PHONY: bench-peers bench-peers-quick bench-peers-table sweeps $(SWEEPS:%=sweep-%)

bench-peers: $(PEERS_STAMP)  ## Measure Bagpipe and every peer in turns on rate-limited links (root, Linux; FLAGS=--help)
	@$(PEERS_RUN) run $(FLAGS)
	@$(PEERS_RUN) table

bench-peers-quick: $(PEERS_STAMP)  ## The same in a few minutes: two rates, few steps
	@$(PEERS_RUN) run --quick $(FLAGS)
	@$(PEERS_RUN) table

bench-peers-table: $(PEERS_STAMP)  ## Write the table and the plot again from what was measured
	@$(PEERS_RUN) table $(FLAGS)

sweeps: $(SWEEPS:%=sweep-%)  ## Vary one setting at a time, and plot; or one of them: sweep-lookahead, sweep-cache, ...

$(SWEEPS:%=sweep-%): sweep-%: $(PEERS_STAMP)
	@$(PEERS_RUN) sweep $* $(FLAGS)

$(PEERS_STAMP): make/peers.mk
	@echo "setting up $(PEERS) (once)"
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || .ci/install-venv
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS_PIP) install -c requirements/constraints.txt $(TORCH) -e '.[trainer]' matplotlib
	@$(PEERS_PIP) install --no-deps $(TORCHREC)
	@$(PEERS_PIP) install -c requirements/constraints.txt $(TORCH) $(TORCHREC_NEEDS)
	@touch $@
