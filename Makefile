# The steps of building, checking and measuring. `make` alone lists them.

CARGO ?= cargo
CARGO_DENY_VERSION := 0.20.2
# What `make audit` checks; the first needs the network to fetch the database.
AUDIT ?= advisories bans licenses sources
# Arguments of the benchmark: scenarios, --peers, --write.
BENCH_ARGS ?=
# Arguments of `make chaos`: --quick, --only, --phase, --write.
CHAOS_ARGS ?=
CARGO_FUZZ_VERSION := 0.13.2
# What `make fuzz` runs, and how long each of them.
FUZZ_TARGETS ?= head framing normalize proxy_protocol config jwt
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help run build test check fmt bench faults chaos fuzz audit

help: ## list these steps
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

run: build ## build and start the gateway with a demo backend
	@exec target/release/gateway demo

build: ## build the release binary, target/release/gateway
	@scripts/install-deps.sh build
	$(CARGO) build --release --locked --bin gateway

test: ## run every test
	@scripts/install-deps.sh build test
	$(CARGO) test --locked

check: ## formatting, lints, documentation and scripts
	@scripts/install-deps.sh build check
	@$(CARGO) clippy --version >/dev/null 2>&1 && $(CARGO) fmt --version >/dev/null 2>&1 || \
		rustup component add clippy rustfmt
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items --quiet
	shellcheck scripts/*.sh loadtest/*.sh .ci/run
	PYTHONDONTWRITEBYTECODE=1 python3 loadtest/bench --help >/dev/null
	python3 -B loadtest/backends-faults.py --help >/dev/null

fmt: ## format the code
	$(CARGO) fmt

bench: build ## compare with nginx, HAProxy and Envoy; see loadtest/README.md
	@scripts/install-deps.sh bench
	@python3 -B loadtest/bench $(BENCH_ARGS)

faults: build ## let an identity provider fail under load; see loadtest/README.md
	@scripts/install-deps.sh faults
	@python3 -B loadtest/idp-faults.py

chaos: build ## let backends fail under load; see loadtest/README.md
	@scripts/install-deps.sh chaos
	@python3 -B loadtest/backends-faults.py $(CHAOS_ARGS)

fuzz: ## run every fuzz target for FUZZ_SECONDS
	@scripts/install-deps.sh build
	@rustup toolchain list | grep -q '^nightly' || rustup toolchain install nightly --profile minimal
	@$(CARGO) fuzz --version >/dev/null 2>&1 || \
		$(CARGO) install cargo-fuzz --locked --version $(CARGO_FUZZ_VERSION)
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p fuzz/corpus/$$target; \
		$(CARGO) +nightly fuzz run --fuzz-dir fuzz --sanitizer none $$target \
			fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -dict=fuzz/http.dict || exit 1; \
	done

audit: ## licences, sources, bans and advisories of the dependencies
	@scripts/install-deps.sh build
	@$(CARGO) deny --version >/dev/null 2>&1 || \
		$(CARGO) install cargo-deny --locked --version $(CARGO_DENY_VERSION)
	$(CARGO) deny --locked check $(AUDIT)
