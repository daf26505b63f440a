# Needs Go and git. The tools are built from tools/go.mod.

# FUZZTIME is what all fuzz targets share, in seconds. CHECKS is how often a
# soak repeats each property. BENCH chooses benchmarks.
FUZZTIME ?= 60
CHECKS ?= 100000
BENCH ?= .
TOOL = go tool -modfile=tools/go.mod

.PHONY: help check test race lint fuzz soak mutants bench api fmt cover

help: ## Show the targets
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/\1 \2/p' Makefile | while read -r name text; do printf '  make %-7s %s\n' "$$name" "$$text"; done

check: ## Run everything that a change has to pass
	bash .ci/run

test: ## Run the tests
	go test ./...

race: ## Run the tests under the race detector
	go test -race ./...

lint: ## Run go vet, staticcheck, the formatter's check and the house rules
	bash .ci/run vet staticcheck format rules

fuzz: ## Fuzz all targets of the root module, for FUZZTIME=60 seconds together
	FUZZTIME=$(FUZZTIME) bash .ci/run fuzz

RAPID = {{$$p := .ImportPath}}{{range .TestImports}}{{if eq . "pgregory.net/rapid"}}{{$$p}} {{end}}{{end}}{{range .XTestImports}}{{if eq . "pgregory.net/rapid"}}{{$$p}} {{end}}{{end}}

soak: ## Run each property CHECKS=100000 times under the race detector, and fuzz for an hour
	go test -race -timeout 0 $$(go list -f '$(RAPID)' ./... | tr ' ' '\n' | sort -u) -rapid.checks=$(CHECKS)
	go test -race -timeout 0 -run 'NoCrash|NoKill' . -args -every=1
	go test -timeout 0 -run TestKilledProcess . -args -kills=20000
	go test -timeout 0 -run TestEveryStepIsNeeded . -args -mutants
	FUZZTIME=3600 bash .ci/run fuzz

mutants: ## Leave out each step of docs/CRASH.md that has no site, and run the tests that fail then
	go test -timeout 0 -run TestEveryStepIsNeeded -v . -args -mutants

bench: ## Run the benchmarks that match BENCH=. and compare with the last run
	@mkdir -p .cache
	bash -o pipefail -c 'go test -run "^$$" -bench "$$0" -benchmem -count 6 ./... | tee .cache/bench.new.txt' '$(BENCH)'
	@if [ -f .cache/bench.txt ]; then mv .cache/bench.txt .cache/bench.old.txt; fi
	@mv .cache/bench.new.txt .cache/bench.txt
	$(TOOL) benchstat $$(ls .cache/bench.old.txt .cache/bench.txt 2>/dev/null)

api: ## Write the exported API to docs/api.txt
	go test ./internal/lint -run TestRepositoryFollowsTheRules/api -update

fmt: ## Format all Go files
	git ls-files --cached --others --exclude-standard -- '*.go' | \
		while read -r file; do if [ -f "$$file" ]; then echo "$$file"; fi; done | xargs $(TOOL) gofumpt -w

cover: ## Write the coverage of the tests to .cache/cover.html
	@mkdir -p .cache
	go test -coverpkg=./... -coverprofile=.cache/cover.out ./...
	go tool cover -html=.cache/cover.out -o .cache/cover.html
	go tool cover -func=.cache/cover.out | tail -1
