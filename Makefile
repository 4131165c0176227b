# The few commands that must also install what is missing; for the rest there is cargo (.cargo/config.toml).

export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
PREFIX ?= $(HOME)/.local
DIR ?=
RELEASE = $${CARGO_TARGET_DIR:-target}/release
PROGRAMS = --package syncd --package hearth --package relay-server

.PHONY: help demo test install bench

help:
	@echo 'make demo [DIR=…]   two machines and a relay on this computer, from nothing to equal homes'
	@echo 'make test           all tests'
	@echo 'make install        for yourself, as a systemd user service (PREFIX, DESTDIR)'
	@echo 'make bench          how fast, beside rsync, Unison, Syncthing and iroh in the same run'

demo:
	@scripts/setup build run
	@cargo build --locked --release $(PROGRAMS) --package hearth-tests --bins
	@"$(RELEASE)/demo" "$(DIR)"

test:
	@scripts/setup build run test
	@cargo build --locked --workspace --bins
	@scripts/test

install:
	@scripts/setup build
	@cargo build --locked --release $(PROGRAMS) --bins
	@PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" scripts/install

bench:
	@scripts/setup build run test bench
	@cargo build --locked --release $(PROGRAMS) --package hearth-tests --bins
	@"$(RELEASE)/bench" $(BENCH)
