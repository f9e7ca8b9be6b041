# make up    build, start everything embedded, print the address (needs only Go)
# make test  everything, on real engines, with the race detector
# make help  the rest

GO      ?= go
BIN     := bin/holdfast
TIMEOUT ?= 15m

.PHONY: help up build deps test test-short client compat bench lint fmt drill model clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

up: build ## build, start everything embedded, print the address
	@exec $(BIN) up

build: ## build bin/holdfast
	@scripts/build $(BIN) ./cmd/holdfast

deps: ## install what the tests need, where that is allowed, or say what is missing
	@scripts/deps

test: deps ## all tests, on real engines, with the race detector
	@scripts/test -timeout $(TIMEOUT)

test-short: ## tests without drills and long fault runs; no race detector
	$(GO) test -short ./...

drill: build ## the drills on the embedded engines
	$(BIN) drill sale
	$(BIN) drill restart
	$(BIN) drill backup
	$(BIN) drill failover
	$(BIN) drill lock
	$(BIN) drill limit

model: ## check the model of the nodes and its mutants; needs spin and gcc
	@scripts/model

client: build ## build the TypeScript client, test it against bin/holdfast; needs Node and npm
	@scripts/client

compat: build ## clients in Go, Node and Python, unchanged, while the nodes' leader is killed
	@scripts/compat

bench: ## measure everything beside its floors and peers; writes docs/benchmarks.md
	@scripts/bench

lint: ## gofmt, vet, staticcheck, errcheck, tidy, shell syntax, migrations
	@scripts/lint

fmt: ## format
	gofmt -w .

clean: ## remove what was built
	rm -rf bin clients/typescript/dist clients/typescript/node_modules examples/shop-ts/dist examples/shop-ts/node_modules
