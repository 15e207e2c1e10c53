# Operator, chart and cluster targets; included by the Makefile.
KIT ?= $(firstword $(wildcard ../shared/cluster/cluster))
BUILDER ?= $(firstword $(wildcard ../shared/images/builder) docker)
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' bagpipe/__init__.py)
RUN_IMAGES := $(BUILDER)$(if $(filter docker,$(notdir $(BUILDER))),, docker)
HELM_FLAGS ?= --set progressSeconds=3

.PHONY: crd manifests locks images image-contents audit e2e e2e-schedules

crd: $(STAMP)  ## Generate the CRD from bagpipe/config/document.py
	@$(BIN)/python tools/generate_podcheck.py
	@$(BIN)/python tools/generate_crd.py

manifests: crd  ## Render manifests/install.yaml from the chart
	@tools/render_install.sh > manifests/install.yaml

images:  ## Build the images with BUILDER=, docker or a program that takes the same arguments
	$(BUILDER) build -q -f Dockerfile.server -t bagpipe-server:$(VERSION) .
	$(BUILDER) build -q -f Dockerfile.trainer -t bagpipe-trainer:$(VERSION) .
	$(BUILDER) build -q -f images/operator/Dockerfile -t bagpipe-operator:$(VERSION) .
	$(BUILDER) build -q -f tests/e2e/standin/Dockerfile -t bagpipe-standin:4 tests/e2e/standin
	$(BUILDER) build -q -f tests/e2e/store/Dockerfile -t bagpipe-store:1 tests/e2e/store

locks: $(STAMP)  ## Write the hashed requirements of the images, from pyproject.toml and requirements/constraints.txt
	@$(BIN)/python tools/lock_images.py

image-contents: $(STAMP)  ## List what is in the built images, with an SBOM of each in dist/sbom; fails on what must not be there
	@$(BIN)/python tools/image_contents.py --docker "$(RUN_IMAGES)" --sbom dist/sbom $(foreach one,server trainer operator,bagpipe-$(one):$(VERSION))

AUDIT := $(VENV)/.audit
audit:  ## Look for known vulnerabilities in what the images hold (pip-audit, in an environment of its own)
	@test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install --quiet pip-audit==2.10.1; }
	@$(PYTHON) tools/audit.py --pip-audit $(AUDIT)/bin/pip-audit \
	  requirements/server.txt requirements/trainer.txt operator/requirements.txt $(TORCH)

e2e: $(STAMP)  ## Bring up a cluster, run the end-to-end tests on it and remove it (KIT=path of a cluster script, or kind)
	@PYTHON=$(CURDIR)/$(BIN)/python KIT="$(KIT)" BUILDER="$(BUILDER)" tools/e2e.sh

SEEDS ?= 50
FIRST_SEED ?= 0
e2e-schedules: $(STAMP)  ## Run SEEDS= random schedules of faults, from FIRST_SEED= on, on a cluster made for them
	@PYTHON=$(CURDIR)/$(BIN)/python KIT="$(KIT)" BUILDER="$(BUILDER)" BAGPIPE_E2E_SEEDS=$(SEEDS) BAGPIPE_E2E_FIRST_SEED=$(FIRST_SEED) \
	  ARGS="-s -k test_schedule" tools/e2e.sh
