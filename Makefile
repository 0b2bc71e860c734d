# Each target does its own set-up; Rust, Python 3.11+ and the package registries are all they need.

FUNCTIONS := sensor-ingestion signal-adjustment maintenance-prediction operations-api
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: run test lint invoke bench deploy

run: ## Serve the suite on this machine and drive a simulated city with it
	cargo run --release --package greenwave -- demo

test: ## Everything that is tested without AWS
	cargo $(NEXTEST) --workspace

lint: .venv/lint/done ## Format, lints, pure cores, template
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	set -e; for function in $(FUNCTIONS); do cargo check --quiet --package $$function --no-default-features --lib; done
	.venv/lint/bin/cfn-lint template.yaml

invoke: .venv/deploy/done .venv/emulator/done ## The Lambda binaries against an emulator, with the events of events/
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" .venv/emulator/bin/python tests/invoke.py

bench: ## Throughput and latency of the local host
	cargo build --release --package greenwave
	python3 tests/load.py target/release/greenwave

deploy: .venv/deploy/done ## Build with SAM and deploy to AWS
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" sam build
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" sam deploy

.venv/lint/done:
	python3 -m venv .venv/lint
	.venv/lint/bin/pip install --quiet cfn-lint==1.58.0 aws-sam-translator
	touch $@

.venv/deploy/done:
	python3 -m venv .venv/deploy
	.venv/deploy/bin/pip install --quiet aws-sam-cli==1.170.0 cargo-lambda==1.9.2 ziglang
	touch $@

# The emulator pins other versions of the AWS libraries than the SAM CLI.
.venv/emulator/done:
	python3 -m venv .venv/emulator
	.venv/emulator/bin/pip install --quiet ministack==1.5.33 aws-sam-translator
	touch $@
