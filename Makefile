# Each target does its own set-up; Rust, Python 3.11+ and the package registries are all they need.

FUNCTIONS := sensor-ingestion signal-adjustment maintenance-prediction operations-api
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

# With the whole workspace and a test among what is built, dependencies have the features that they have in `test`: any other choice builds
# half of them once more.
FEATURES := --features greenwave/aws,tests/aws
BUILD_HOST := cargo build --workspace $(FEATURES) --bin greenwave --test ports

EXAMPLES ?= 30
FUZZ_SECONDS ?= 60
BENCH ?= ../shared/bench
SCENARIOS ?= cologne1,cologne3,ingolstadt1,ingolstadt7
SEEDS ?= 11,12,13,14,15,16,17,18,19,20

# A stack keeps the last value of a parameter that is not named, but SAM builds for the template's default: so the architecture
# always goes to both commands.
ARCHITECTURE ?= x86_64
OVERRIDES = --parameter-overrides Architecture=$(ARCHITECTURE) $(PARAMETERS)

# Of samconfig.toml: dev or prod.
ENV ?= dev

.PHONY: run test storm soak lint schemathesis fuzz invoke adapters e2e bench bench-signals cost deploy outputs delete

run: ## Serve the suite on this machine and drive a simulated city with it
	cargo run --release --package greenwave -- demo

test: ## Everything that is tested without AWS
	cargo $(NEXTEST) --workspace

storm: ## Some thousand schedules of faults: STORM_SCHEDULES of them (10000) from the seed STORM_SEED (0) on
	cargo test --package tests --test faults -- --ignored --nocapture

soak: ## The safety envelope for a hundred million controller-seconds: SOAK_SECONDS of them, from the junction SOAK_SEED (0) on
	cargo test --release --package signal-adjustment --no-default-features --test envelope -- --ignored --nocapture

lint: .venv/lint/done ## Format, lints, pure cores, fuzz targets, template
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(FEATURES) -- -D warnings
	set -e; for function in $(FUNCTIONS); do cargo check --quiet --package $$function --no-default-features --lib; done
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo check --quiet --locked --manifest-path tests/fuzz/Cargo.toml
	.venv/lint/bin/cfn-lint template.yaml
	.venv/lint/bin/checkov --file template.yaml --framework cloudformation --compact --quiet

schemathesis: .venv/schemathesis/done ## openapi.yaml against the local host: some thousands of requests, good and bad
	$(BUILD_HOST)
	.venv/schemathesis/bin/python tests/schemathesis/run.py $${CARGO_TARGET_DIR:-target}/debug/greenwave --seed 1 --max-examples $(EXAMPLES)

# Without a sanitizer the stable toolchain is enough: there is no unsafe code to watch.
fuzz: ## Random bytes against the decoders, FUZZ_SECONDS for each target
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@0.13.2
	set -e; for target in wire batch intersection; do \
		mkdir -p tests/fuzz/corpus/$$target; \
		cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target tests/fuzz/corpus/$$target tests/fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -dict=tests/fuzz/words.dict -max_len=16384 -timeout=5; \
	done

invoke: .venv/deploy/done .venv/emulator/done ## The Lambda binaries against an emulator, with the events of events/
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" .venv/emulator/bin/python tests/invoke.py

adapters: .venv/emulator/done ## The adapters for AWS and `greenwave quarantine` against an emulator
	.venv/emulator/bin/python tests/adapters.py
	$(BUILD_HOST)
	.venv/emulator/bin/python tests/quarantine.py $${CARGO_TARGET_DIR:-target}/debug/greenwave

e2e: .venv/deploy/done .venv/emulator/done ## `make deploy` to an emulator, and all that may happen to a stack
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" .venv/emulator/bin/python tests/e2e.py

bench: ## Throughput and latency of the local host
	cargo build --release --package greenwave
	python3 tests/load.py target/release/greenwave

# The scenarios belong to others and are no part of this project: BENCH is where closed_loop.py lies.
bench-signals: ## Delay in SUMO, driven through the public API: SEEDS, SCENARIOS (or SCENARIOS=generated, SCENARIOS=resco, or some of their names), and OPTIONS such as allred=2, miss=0.05,drop=0.1,latency=2, or scale=1.6, measures=loop, dead=1 (tests/detectors.py)
	cargo build --release --package greenwave
	python3 tests/bench_signals.py target/release/greenwave --bench $(BENCH) --seeds $(SEEDS) --scenarios $(SCENARIOS) $(if $(OPTIONS),--options $(OPTIONS))

cost: ## What a city costs on AWS by list prices; CITY="--junctions 21 --detectors 24" computes another one
	cargo run --release --package greenwave -- cost $(CITY)

deploy: .venv/deploy/done ## Build with SAM and deploy to AWS; ENV=prod is another stack, PARAMETERS="AlarmEmail=..." are those of template.yaml
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" sam build --config-env $(ENV) $(OVERRIDES)
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" sam deploy --config-env $(ENV) $(OVERRIDES)

outputs: .venv/deploy/done ## What the stack is made of, as variables: eval "$(make --silent outputs)"
	@PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" sam list stack-outputs --config-env $(ENV) --output json | python3 -c \
		'import json, shlex, sys; [print(o["OutputKey"] + "=" + shlex.quote(o["OutputValue"])) for o in json.load(sys.stdin)]'

delete: .venv/deploy/done ## Remove the stack; what cannot be made anew stays
	PATH="$(CURDIR)/.venv/deploy/bin:$$PATH" sam delete --config-env $(ENV)

.venv/lint/done: Makefile
	python3 -m venv .venv/lint
	.venv/lint/bin/pip install --quiet cfn-lint==1.58.0 aws-sam-translator checkov==3.3.30
	touch $@

.venv/schemathesis/done: Makefile
	python3 -m venv .venv/schemathesis
	.venv/schemathesis/bin/pip install --quiet schemathesis==4.32.5
	touch $@

.venv/deploy/done: Makefile
	python3 -m venv .venv/deploy
	.venv/deploy/bin/pip install --quiet aws-sam-cli==1.170.0 awscli==1.46.3 cargo-lambda==1.9.2 ziglang
	touch $@

# The emulator pins other versions of the AWS libraries than the SAM CLI, and checks tokens with cryptography.
.venv/emulator/done: Makefile
	python3 -m venv .venv/emulator
	.venv/emulator/bin/pip install --quiet ministack==1.5.33 aws-sam-translator cryptography
	touch $@
