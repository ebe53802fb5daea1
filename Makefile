# make book    execute the notebooks, render the book, print its path
# make test    lint, unit tests, notebooks, the strict book, its links and its pages in a browser
# make unit-3.13  the library's tests on Python 3.13
# make portable  the numerical tests as other processors compute them (3 to 8 minutes each, 12 in all)
# make results compute what is missing of all that the book shows (resumable; hours from nothing)
# make notebooks compare the notebooks with their stored outputs and numbers; NAMES=quickstart for one
# make outputs execute the notebooks at their defaults and store the outputs and numbers nbval compares
.DELETE_ON_ERROR:
.PHONY: book test portable portable-one results outputs lint unit unit-3.13 notebooks clean

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2
# The conda environment of environment.yml where it is active, else .venv, which is made
ifeq ($(CONDA_DEFAULT_ENV),deepmr)
BIN := $(CONDA_PREFIX)/bin
else
BIN := .venv/bin
INSTALLED := .venv/.installed
endif
CODE := $(shell find deepmr_utils experiments -type f -not -name "*.pyc" -not -path "*.egg-info/*")
# The longest first, so that none is left to run alone.
EXECUTED := $(addprefix executed/,bpnet.ipynb deepsea.ipynb deep_mr.ipynb corrections.ipynb simulation.ipynb splicing.ipynb exon_definition.ipynb sweeps.ipynb estimators.ipynb one_sample.ipynb verdicts.ipynb quickstart.ipynb)
PAGES := _config.yml _toc.yml $(shell find book -type f -not -path 'book/results/*' -not -name '*.pyc')
# The longest first, here too
NAMES ?= bpnet deepsea deep_mr simulation corrections sweeps splicing exon_definition estimators one_sample verdicts quickstart
NOTEBOOKS := $(NAMES:%=notebooks/%.ipynb)
# Figures of executed notebooks are SVG: book/kernels has a python3 that makes them.
PAPERMILL := TQDM_DISABLE=1 JUPYTER_PATH=$(CURDIR)/book $(BIN)/papermill --no-progress-bar -k python3

# One thread a notebook: threads of two that share a core wait for each other.
book: $(INSTALLED)
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory -j $(WORKERS) _build/html/index.html
	@echo "The book: $(CURDIR)/_build/html/index.html"

# The environment. A torch that is already in .venv stays if it has the pinned version.
.venv/.installed: pyproject.toml experiments/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v != (3, 11) and "Python 3.11 is needed, PYTHON=$(PYTHON) is %d.%d" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' -e ./experiments
	touch $@

# Notebooks, executed: written to a temporary name, so that an interrupted run leaves nothing behind. In `make test`
# they find the units again that nbval has just computed.
executed/%.ipynb: notebooks/%.ipynb $(CODE) | $(INSTALLED)
	mkdir -p executed/results
	rm -rf executed/results/$*
	$(if $(FOUND),! test -d $(FOUND)/$* || cp -r $(FOUND)/$* executed/results/)
	$(PAPERMILL) --cwd executed $< executed/.$*.ipynb
	$(BIN)/python -m experiments.notebooks executed/.$*.ipynb
	mv executed/.$*.ipynb $@

executed/corrections.ipynb: $(wildcard book/results/*/settings.json)
executed/bpnet.ipynb: $(wildcard book/results/bpnet/*/*/*.json)
executed/deepsea.ipynb: $(wildcard book/results/deepsea/*.json)
executed/bpnet.ipynb executed/verdicts.ipynb: book/results/verdicts.csv
executed/exon_definition.ipynb: $(wildcard book/results/exon_definition/*.npz)

executed/simulation.ipynb: $(wildcard book/results/simulation*/*/*.json book/results/simulation_motif/*/*/*.json)
executed/sweeps.ipynb: $(wildcard book/results/sweeps/*/settings.json)

# Strict: an unresolved reference, a missing file or any other warning fails the build.
_build/html/index.html: $(EXECUTED) $(PAGES)
	$(BIN)/jupyter-book clean . > /dev/null
	$(BIN)/jupyter-book build . -W -n --keep-going --all --quiet

# Every study of the book: its name, and the file of its parameters
STUDIES := simulation/simulation_paper_scale simulation/calibration sweeps/sweeps_paper_scale \
  simulation/simulation_motif shared_error/shared_error bpnet/bpnet_demo_scale own_responses/own_responses deepsea/deepsea_demo_scale \
  exon_definition/exon_definition verdicts/verdicts
results: $(INSTALLED)
	set -e; for study in $(STUDIES); do \
	  OMP_NUM_THREADS=1 $(BIN)/python -m experiments $${study%/*} book/parameters/$${study#*/}.yml --workers $(WORKERS); done

test: lint unit notebooks
	$(MAKE) --no-print-directory book FOUND=notebooks/results
	$(BIN)/python -m pytest -q tests/book/test_book_html.py tests/book/test_book_browser.py tests/book/test_claims.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --ignore tests/book/test_book_html.py --ignore tests/book/test_book_browser.py \
	  --ignore tests/book/test_notebook_numbers.py -n $(WORKERS) --dist loadfile

# The library's tests on the newest Python that it supports, in an environment of its own.
unit-3.13: .venv-3.13/.installed
	OMP_NUM_THREADS=1 .venv-3.13/bin/python -m pytest -q tests/library tests/engine -m "not slow" \
	  -n $(WORKERS) --dist loadfile

.venv-3.13/.installed: pyproject.toml experiments/pyproject.toml constraints.txt
	test -x .venv-3.13/bin/python || python3.13 -m venv .venv-3.13
	.venv-3.13/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[files,store,test]' -e ./experiments
	touch $@

# Processors that this one can play: vector instructions of torch, with its libraries, and of OpenBLAS;
# and threads, which change the order of sums (one worker where there are two). Whoever runs the tests has one of these, or its like.
FLAGS := $(shell sed -n '/^flags/{s/.*: //p;q;}' /proc/cpuinfo 2>/dev/null)
VECTORS := default $(filter avx2,$(FLAGS))
CORES := Nehalem $(if $(filter avx2,$(FLAGS)),Haswell) $(if $(filter avx512f,$(FLAGS)),SkylakeX)
PROCESSORS := $(foreach v,$(VECTORS),$(foreach c,$(CORES),$(foreach t,1 2,portable-$v-$c-$t)))
NUMERICAL := tests/library tests/engine tests/experiments --ignore tests/experiments/test_workflow.py --ignore tests/library/test_downloads.py
portable_ISA_default := ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
portable_ISA_avx2 := ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2

portable: $(PROCESSORS)

.PHONY: $(PROCESSORS)
$(PROCESSORS): portable-%: $(INSTALLED)
	$(portable_ISA_$(word 1,$(subst -, ,$*))) ATEN_CPU_CAPABILITY=$(word 1,$(subst -, ,$*)) \
	  OPENBLAS_CORETYPE=$(word 2,$(subst -, ,$*)) OMP_NUM_THREADS=$(word 3,$(subst -, ,$*)) \
	  $(BIN)/python -m pytest -q -m "not slow" $(NUMERICAL) --dist loadfile \
	  -n $(if $(filter 2,$(word 3,$(subst -, ,$*))),1,$(WORKERS))

# One of them, another for another commit.
portable-one:
	commit=$$(git rev-parse --short=7 HEAD 2>/dev/null || echo 0); set -- $(PROCESSORS); \
	  shift $$((0x$$commit % $$#)); $(MAKE) --no-print-directory $$1

notebooks: $(INSTALLED)
	rm -rf $(addprefix notebooks/results/,$(NAMES))
	TQDM_DISABLE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -p no:cacheprovider -W default \
	  --nbval $(NOTEBOOKS) --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg -n $(WORKERS) --dist loadfile
	$(if $(filter file,$(origin NAMES)),$(BIN)/python -m pytest -q tests/book/test_notebook_numbers.py -n $(WORKERS))

# Tolerances of glued numbers are kept; `git diff` shows what changed.
outputs: $(INSTALLED)
	rm -rf $(addprefix notebooks/results/,$(NAMES))
	for name in $(NAMES); do \
	  OMP_NUM_THREADS=1 $(PAPERMILL) --cwd notebooks notebooks/$$name.ipynb notebooks/$$name.ipynb && \
	  $(BIN)/python tests/notebook_numbers.py store notebooks/$$name.ipynb && \
	  $(BIN)/python -m experiments.notebooks --strip notebooks/$$name.ipynb || exit 1; done

clean:
	rm -rf _build executed notebooks/results
