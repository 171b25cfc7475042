# The build of Dormouse. `make help` lists the targets; README.md describes the project.
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
GOOS     := $(shell go env GOOS)
GOARCH   := $(shell go env GOARCH)
LINT     := go tool -modfile=scripts/lint/go.mod
GUESTS   := sandboxd/guest/bundle/guest-linux-amd64 sandboxd/guest/bundle/guest-linux-arm64
# Runs a command with an engine. If there is none, it starts a private Docker engine (only on Debian, as root).
ENGINE   := scripts/with-engine

# All targets build with the same flags, so that make build, lint and test share the compiled packages.
export GOFLAGS     := $(strip $(shell go env GOFLAGS) -trimpath)
export CGO_ENABLED := 0

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: bin/dormouse $(if $(filter linux,$(GOOS)),bin/runsc) ## bin/dormouse (and on Linux bin/runsc, gVisor)

demo: build ## the main job on real data, with a real MCP client: see it work
	@$(ENGINE) sh -c 'bin/dormouse image build && go run ./examples/demo'

test: build ## all the tests that this machine can run; says which it could not, and why
	@$(ENGINE) --docker scripts/test

test-fast: guests ## only the tests that need no engine, in seconds
	go test -short ./...

# e2e is left out, because its tests run the command, which is built without the race detector. The race detector needs cgo.
# go vet is off, because make lint runs it. Four packages are tested at a time, because some of them mostly wait.
test-race: guests ## the tests that need no engine, under the race detector
	CGO_ENABLED=1 go test -p 4 -race -short -vet=off $$(go list ./... | grep -v /e2e)

fuzz: guests ## every fuzz target for 20 seconds (FUZZTIME=…)
	@scripts/fuzz $(or $(FUZZTIME),20s)

bench: build ## the benchmarks, as medians and 95th percentiles
	@$(ENGINE) --docker sh -c 'bin/dormouse image build && go run ./bench'

lint: guests ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || (echo 'run gofmt -w on these' && false)
	go vet ./...
	$(LINT) staticcheck ./...

vuln: guests ## govulncheck: known vulnerabilities that the code reaches
	@scripts/vuln

# A build without optimization takes two thirds of the time of an optimized one. Two builds run at once, because each of them uses only
# one CPU for most of its time, while it compiles SQLite.
cross: guests ## builds for every other platform that Dormouse runs on
	@printf '%s\n' $(filter-out $(GOOS)/$(GOARCH),linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64) | xargs -P 2 -n 1 sh -c \
	  'echo "build $$1"; GOOS=$${1%/*} GOARCH=$${1#*/} go build -gcflags="all=-N -l" -o /dev/null ./cmd/dormouse' sh

mcpb: guests ## bin/dormouse-*.mcpb: MCP bundles, to install Dormouse in Claude Desktop by a double click; bin/server.json: the MCP registry's entry
	@mkdir -p bin
	@go run ./packaging/mcpb $(VERSION) darwin/arm64 darwin/amd64 windows/amd64 linux/amd64 linux/arm64

golden: guests ## rewrites the golden files; read the diff
	DORMOUSE_UPDATE_GOLDEN=1 go test ./...

clean: ## removes what was built here (images and homes stay)
	rm -rf bin $(GUESTS) third_party/runsc/compiled.go third_party/runsc/patched

# The guest is a Linux program. The command dormouse embeds it for both architectures, because dormouse may run on another system,
# such as a Mac, and copies the guest into its containers. These targets always run, because go build itself finds out whether there
# is anything to do.
guests: $(GUESTS)
$(GUESTS): FORCE
	@GOOS=linux GOARCH=$(lastword $(subst -, ,$@)) go build -buildvcs=false -ldflags '-s -w' -o $@ ./sandboxd/guest/cmd/guest

bin/dormouse: guests FORCE
	@echo "build $@"
	@go build -ldflags '$(LDFLAGS)' -o $@ ./cmd/dormouse

bin/runsc: $(wildcard third_party/runsc/go.* third_party/runsc/main.go third_party/runsc/filters/* third_party/runsc/patch/*)
	@echo "build $@ (gVisor, from its Go module; about a minute the first time)"
	@cd third_party/runsc && go run ./filters compiled.go && go run ./patch ../../$@

FORCE:
.PHONY: help build demo test test-fast test-race fuzz bench lint vuln cross mcpb golden clean guests FORCE
