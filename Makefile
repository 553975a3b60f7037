# Every target is one call of one Python entry, which knows the tasks, norms, configs and variables.
# `make` alone prints the help; `make task=… norm=…` runs an experiment.
PYTHON ?= python3
MAKEFLAGS += --no-builtin-rules --no-print-directory

.DEFAULT_GOAL := default
.PHONY: default help setup run sweep report runs clean-runs sync dashboard publish smoke test bench lint lock

default help setup run sweep report runs clean-runs sync dashboard publish smoke test bench lint lock:
	@$(PYTHON) shared/src/shared/make.py $@

# A misspelt target gets the same one-line answer as a misspelt variable, also where a folder has its name.
%: FORCE
	@$(PYTHON) shared/src/shared/make.py $@

FORCE: ;

Makefile: ;
