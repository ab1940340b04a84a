# Trestle's commands. Everything that is downloaded or compiled for tests is
# kept in .cache/ and used again.

GO      ?= go
PYTHON  ?= python3
MVN     ?= mvn
NPM     ?= npm
CACHE   := $(CURDIR)/.cache
VENV    := $(CACHE)/venv
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LINT    := $(CACHE)/bin/golangci-lint-2.15.0

RUNS    ?= 1

# How many packages are built or tested at a time is Go's default. Suites are
# run one after another: they have a server of their own each, and share the
# cores.
ITEST   := $(GO) test ./itests -count=1 -v -timeout=60m -trestle=$(CURDIR)/bin/trestle -cache=$(CACHE)

.PHONY: build itest-generated demo kafka kafka-jars typescript itest-kafka java-jars test unit check race lint itest-quick itest-go itest-python itest-java itest-behaviour itest-failover bench bench-spill bench-state bench-failover full clean

build: ## bin/trestle
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/trestle ./cmd/trestle

demo: build ## a word count on an embedded Trestle; FILES="…" names other texts
	$(GO) run ./examples/demo -trestle=bin/trestle $(if $(FILES),-files='$(FILES)')

test: build unit itest-quick ## unit tests and some tests of the whole; what CI runs

unit: ## the packages' own tests
	$(GO) test ./...

check: race lint ## all that a machine can say about the code
	test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	$(GO) vet ./...

race: ## the packages' own tests under the race detector
	$(GO) test -race ./...

lint: $(LINT)
	$(LINT) run ./...

itest-quick: build $(VENV)/.ready $(CACHE)/java/.ready ## some of each SDK's tests, and how the whole behaves
	$(ITEST) -itests=go,python,java,behaviour -quick

itest-go: build ## the Go SDK's own tests
	$(ITEST) -itests=go -run '^TestGo'

itest-python: build $(VENV)/.ready ## the Python SDK's own tests
	$(ITEST) -itests=python -run '^TestPython'

itest-behaviour: build $(VENV)/.ready ## failures, regions and parallelism, seen from outside
	$(ITEST) -itests=behaviour

itest-generated: build ## pipelines made by chance against what the model says, in seven of eleven ways each; N=10000
	$(ITEST) -itests=behaviour -run '^TestGenerated$$' -generated=$(or $(N),10000)

itest-failover: build $(VENV)/.ready ## many machines and what dies of them; QUICK=1 takes four minutes
	$(ITEST) -itests=failover -run '^TestFailover' -parallel=4 $(if $(QUICK),-quick)

kafka: $(CACHE)/kafka/.ready ## a Kafka broker to play with, at 127.0.0.1:9092
	$(GO) run ./itests/kafka/play -jars=$(CACHE)/kafka

kafka-jars: $(CACHE)/kafka/.ready $(CACHE)/kafkaio/.ready ## Kafka's jars, and those of the Java SDK's own KafkaIO, in .cache/

itest-kafka: build $(VENV)/.ready $(CACHE)/kafka/.ready $(CACHE)/kafkaio/.ready $(CACHE)/typescript/.ready ## replays from and writes to a real Kafka, also while processes are killed; QUICK=1 kills fewer
	$(GO) test ./itests/kafka -count=1 -v -timeout=30m -kafka -trestle=$(CURDIR)/bin/trestle -cache=$(CACHE) $(if $(QUICK),-quick)

itest-java: build $(CACHE)/java/.ready ## Java word counts, and the tests that the Java SDK has for runners; QUICK=1 takes some of them
	$(ITEST) -itests=java -run '^TestJava' $(if $(QUICK),-quick)

bench: build $(VENV)/.ready $(CACHE)/java/.ready $(CACHE)/kafka/.ready ## Trestle beside Prism and Flink; writes docs/performance.md; RUNS=3 takes an hour and prints medians
	$(GO) run ./bench -cache=$(CACHE) -runs=$(RUNS)

bench-spill: build ## grouping far more data than memory; fails if the memory grows beyond its budget
	$(GO) run ./bench -cache=$(CACHE) -spill

bench-state: build ## a streaming job that remembers far more than memory holds; fails if the memory grows beyond its budget
	$(GO) run ./bench -cache=$(CACHE) -state

bench-failover: build ## what dying leaders and TaskManagers cost a job; about ten minutes
	$(GO) run ./bench -cache=$(CACHE) -runs=$(RUNS) -failover

full: check itest-go itest-python itest-java itest-behaviour itest-generated itest-failover itest-kafka bench-spill bench-state ## everything that must hold before a release

clean: ## what was built, and the cache
	rm -rf bin $(CACHE)

# The Python environment is made anew when its list of packages changes.
$(VENV)/.ready: itests/python/requirements.txt
	rm -rf $(VENV)
	mkdir -p $(CACHE)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --requirement itests/python/requirements.txt
	touch $@

# The jars of the Java tests, and the tests' own classes.
$(CACHE)/java/.ready: itests/java/pom.xml $(shell find itests/java/src -name '*.java' 2>/dev/null)
	mkdir -p $(CACHE)/java
	rm -rf $(CACHE)/java/lib # jars that are no longer wanted
	$(MVN) --quiet --batch-mode --file itests/java/pom.xml -Dcache=$(CACHE)/java package
	touch $@

# A Kafka broker, and a program around its Java clients.
$(CACHE)/kafka/.ready: itests/java-kafka/pom.xml $(shell find itests/java-kafka/src -name '*.java' 2>/dev/null)
	mkdir -p $(CACHE)/kafka
	$(MVN) --quiet --batch-mode --file itests/java-kafka/pom.xml -Dcache=$(CACHE)/kafka package
	touch $@

# A pipeline with the Java SDK's own KafkaIO.
$(CACHE)/kafkaio/.ready: itests/java-kafkaio/pom.xml $(shell find itests/java-kafkaio/src -name '*.java' 2>/dev/null)
	mkdir -p $(CACHE)/kafkaio
	$(MVN) --quiet --batch-mode --file itests/java-kafkaio/pom.xml -Dcache=$(CACHE)/kafkaio package
	touch $@

# The TypeScript SDK.
$(CACHE)/typescript/.ready: itests/typescript/package.json
	mkdir -p $(CACHE)/typescript
	cp itests/typescript/package.json $(CACHE)/typescript/
	cd $(CACHE)/typescript && $(NPM) install --silent --no-audit --no-fund --ignore-scripts
	touch $@

typescript: $(CACHE)/typescript/.ready ## the TypeScript SDK, in .cache/typescript

java-jars: $(CACHE)/java/.ready ## Beam's jars and a Java word count, in .cache/java

$(LINT):
	GOBIN=$(CACHE)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(CACHE)/bin/golangci-lint $@
