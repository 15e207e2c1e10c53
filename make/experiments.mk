# The six models' table on this machine, every job's traffic through one limited link; included by the Makefile.
#   make six-models-table RATE=1gbit TORCHREC=$HOME/torchrec/bin/python
RATE ?= 1gbit
TORCHREC ?=
TABLE_OUT ?= runs/six-models-table

.PHONY: six-models-table

six-models-table: $(STAMP)  ## Six models, with the cache and without, and TorchRec (TORCHREC=its Python), at RATE (root)
	@OMP_NUM_THREADS=1 tools/limited.sh $(RATE) $(abspath $(BIN))/python tools/six_models_table.py $(TABLE_OUT) \
	  --links "$(RATE), shared by all processes of a job" $(if $(TORCHREC),--torchrec $(TORCHREC)) $(FLAGS)
