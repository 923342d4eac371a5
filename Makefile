# Every target works on a fresh clone, on a Debian-like machine with Go. `make help` lists them.

PACKAGES := docker.io user-mode-linux gcc busybox iproute2 iptables nftables ipset ipvsadm conntrack \
	dnsutils knot-dnsutils dnsperf iputils-ping procps psmisc kmod util-linux tcpdump dbus-daemon systemd rpm python3-dbus python3-gi wrk iperf3 curl docker-compose
# What virtual machines take besides.
HOST_PACKAGES := debootstrap qemu-system-x86 qemu-utils seabios e2fsprogs iproute2 busybox

VERSION := $(shell packaging/version.sh version)
COMMIT  := $(shell packaging/version.sh commit)
DATE    := $(shell packaging/version.sh date)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(shell date -u -d @$(DATE) +%Y-%m-%dT%H:%M:%SZ)
GO      := CGO_ENABLED=0 go
# The data plane of what runs in the lab: ipvs, nftables, or auto for whichever this machine's kernel will do for. Where it
# will not do, IPVS runs in User-Mode Linux, with that much memory.
PLANE   := ipvs
# A suite of Debian whose kernel to take, in a virtual machine, such as VM=trixie; `make deps-hosts` installs what that takes.
VM      :=
LAB      = bin/lab run --plane $(PLANE) --mem 4G $(if $(VM),--vm $(VM))
# SOCKET=off has the data plane balance all connections, also those that are led in connect() else.
SOCKET := auto

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: deps
deps: ## install the Debian packages that are missing (needs root)
	@missing=$$(for p in $(PACKAGES); do \
		[ $$p = docker.io ] && command -v dockerd >/dev/null && continue; \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null || { echo "make deps: this machine has no apt-get; install what is the same as Debian's:" $$missing >&2; exit 1; }; \
	[ "$$(id -u)" = 0 ] || { echo "make deps: needs root to install:" $$missing >&2; exit 1; }; \
	export DEBIAN_FRONTEND=noninteractive; \
	install() { apt-get install -y --no-install-recommends $$missing </dev/null; }; \
	echo "installing" $$missing; \
	log=$$(mktemp); trap 'rm -f $$log' EXIT; \
	install >$$log 2>&1 || { apt-get update </dev/null && install; } >>$$log 2>&1 || { cat $$log >&2; exit 1; }; \
	command -v docker >/dev/null || { missing=docker-cli; install; } >>$$log 2>&1 || { cat $$log >&2; exit 1; } # Debian 13 has it apart

# What make ui-test takes besides: a few hundred megabytes.
.PHONY: deps-ui
deps-ui: PACKAGES := chromium fonts-dejavu-core
deps-ui: deps ## install what make ui-test needs (needs root)

.PHONY: deps-hosts
deps-hosts: PACKAGES := $(HOST_PACKAGES)
deps-hosts: deps ## install what make test-hosts needs (needs root)

.PHONY: build
build: ## build bin/shoal
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/shoal

.PHONY: tools
tools: build bin/uml-xstate.so # what the lab, the tests and the stacks need besides
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/lab ./cmd/demo ./lab/whoami ./lab/etcd

bin/uml-xstate.so: lab/kernel/preload/xstate.c
	@mkdir -p bin
	gcc -shared -fPIC -O2 -Wall -nostdlib -o $@ $<

.PHONY: unit
unit: ## check formatting, vet, and run the tests that need no lab
	@unformatted=$$(gofmt -l .); [ -z "$$unformatted" ] || { echo "not gofmt'ed:" $$unformatted >&2; exit 1; }
	$(GO) vet -tags e2e,hosts ./...
	$(GO) test -vet=off ./...
	cd e2e/promql && $(GO) vet ./... && $(GO) test ./...
	cd packaging && $(GO) vet ./... && $(GO) test ./...

# What is tested by itself against a real kernel or engine, by data plane (KERNEL=packages picks some). What leads in connect() before
# IPVS the end-to-end tests are about; its own tests there take eight minutes: make kernel PLANE=ipvs KERNEL=lb/socket.
KERNEL-ipvs     := kernel/ipset kernel/rules kernel/bridge kernel/watch kernel/sockets kernel/cgroups kernel/conntrack lb/ipvs fabric
KERNEL-nftables := kernel/rules kernel/bridge kernel/watch kernel/sockets kernel/cgroups kernel/conntrack ingress lb/nft lb/socket dockerwatch
KERNEL-auto      = $(KERNEL-ipvs)
KERNEL           = $(KERNEL-$(PLANE))
ALL_KERNEL       = $(sort $(KERNEL) $(KERNEL-ipvs) $(KERNEL-nftables))

# These take a data plane; run-kernel packages and what to leave out; run-e2e what of the tests to run, and whether nothing is to be led
# in connect().
run-kernel = bin/lab run --plane $1 --mem 4G --timeout 20m -- sh -c 'for p in $(or $2,$(KERNEL-$1)); do echo "== $$p"; \
	(cd $$p && "$(CURDIR)/bin/kernel/$$(basename $$p).test" -test.timeout 15m $(if $(RUN),-test.v -test.run "$(RUN)") $(if $3,-test.skip "$3")) || exit 1; done'
run-e2e = (cd e2e && ../bin/lab run --plane $1 $(if $(filter off,$(or $3,$(SOCKET))),--socket-off) --mem 3G --timeout 50m -- ../bin/e2e.test -test.v -test.timeout 49m $2)

# Unpacked, not installed: that would start it, and close this machine.
bin/firewalld:
	@rm -rf $@.part && mkdir -p $@.part
	@cd $@.part && apt-get -q download firewalld python3-firewall python3-nftables >apt.log 2>&1 || { cat apt.log >&2; exit 1; }
	@cd $@.part && for d in *.deb; do dpkg -x $$d .; done && rm *.deb
	@mv $@.part $@

# Unpacked likewise: what alerts are tested with, and what stacks of compose/ have from a registry.
bin/prometheus bin/caddy:
	@rm -rf $@.part && mkdir -p $@.part
	@cd $@.part && apt-get -q download $(notdir $@) >apt.log 2>&1 || { cat apt.log >&2; exit 1; }
	@cd $@.part && dpkg -x *.deb . && rm *.deb
	@mv $@.part $@

.PHONY: alerts
alerts: bin/prometheus ## check and test the alert rules with promtool
	bin/prometheus/usr/bin/promtool check config contrib/prometheus/prometheus.yaml
	cd contrib/prometheus && $(CURDIR)/bin/prometheus/usr/bin/promtool test rules shoal.rules.test.yaml

# shoal with a wall clock that a test can set: lab/clock/doc.go. What is added to Go's time.Now has to be there, else the clock is right.
.PHONY: clock
clock:
	@mkdir -p bin/clock
	@src=$$($(GO) env GOROOT)/src/time; \
	sed 's/^\tsec, nsec, mono := [a-zA-Z]*ow()$$/&\n\tsec += skew()/' $$src/time.go >bin/clock/time.go.txt; \
	grep -q 'skew()' bin/clock/time.go.txt || { echo "this Go's time.Now is another: see lab/clock/doc.go" >&2; exit 1; }; \
	printf '{"Replace": {"%s": "%s", "%s": "%s"}}\n' $$src/time.go $(CURDIR)/bin/clock/time.go.txt $$src/skew.go $(CURDIR)/lab/clock/skew.go.txt >bin/clock/overlay.json
	$(GO) build -overlay bin/clock/overlay.json -trimpath -ldflags '$(LDFLAGS)' -o bin/shoal-clock ./cmd/shoal

# What hosts are upgraded to by a test: another version, which has other BPF maps.
OTHER_VERSION := 0.0.1-other

.PHONY: tests
tests: tools clock bin/firewalld bin/caddy bin/prometheus # what runs in the lab
	@mkdir -p bin/kernel
	$(GO) build -trimpath -ldflags '$(LDFLAGS) -X main.version=$(OTHER_VERSION) -X shoal/lb/socket.layout=v0' -o bin/shoal-other ./cmd/shoal
	$(GO) test -c -tags e2e -o bin/e2e.test ./e2e
	for p in $(ALL_KERNEL); do $(GO) test -c -tags e2e -o bin/kernel/$$(basename $$p).test ./$$p || exit 1; done

.PHONY: kernel
kernel: deps tests ## run the parts' own tests that need the lab (RUN=regexp picks some; PLANE=nftables)
	$(call run-kernel,$(PLANE),$(KERNEL))

.PHONY: e2e
e2e: deps tests ## run the end-to-end tests: real engines, a real kernel (RUN=regexp picks some; PLANE=nftables, SOCKET=off)
	$(call run-e2e,$(PLANE),$(if $(RUN),-test.run '$(RUN)'))

# The end-to-end tests that `make test` runs with IPVS: of what packets meet. User-Mode Linux takes seven to ten times as long as the
# machine's own kernel; `make e2e` runs the others there too, which are of settings, the store, who joins, problems and the like.
PACKETS := ^Test(Balance|RefusedAtOnce|Draining|Repair)$$
# What of the parts' own tests `make test` leaves out with IPVS: the many ways in which others break what was made, of which
# the end-to-end test of repair has several, and thousands of services. `make kernel` runs them.
LONG := ^TestConformance$$/^WhatOthersBreakIsRepaired$$|^TestWhatOthersBreakAmongManyServicesIsRepaired$$|^TestFullPassesAtRest$$

# What of several hosts is run once more where nothing is led in connect(): those that look how VIPs are reached.
UNLED := ^TestHosts(AHostIsLost|AStackIsScaled|ThreeTiers|WhoReaches)

# A part of the tests has a name and a command. It is told how long it took, and whether it failed.
define part
( echo "== $1"; began=$$(date +%s); failed=; $2 || failed=yes; echo "== $1: took $$((($$(date +%s) - began) / 60)) min"; \
	[ -z "$$failed" ] || { echo "failed: $1"; false; } )
endef

.PHONY: test
test: deps tools ## run all tests
	@bin/lab report -- $(MAKE) --no-print-directory all-tests

# Two labs at a time: with nftables tests wait more than they work, and User-Mode Linux takes one processor. More are no quicker: what
# starts processes all the time is slowed down by its like, on virtual machines without nested paging to a third, on each processor.
# The second lab is in a session of its own, to be ended as one. It is started by "make", as what names $$(MAKE) runs even with -n.
.PHONY: all-tests
all-tests: unit alerts tests
	@echo "== IPVS, and one host with nftables, are tested beside what follows; what they print comes after it, and is in bin/beside.log"; \
	setsid make --no-print-directory tests-beside >bin/beside.log 2>&1 & beside=$$!; \
	trap 'kill -- -$$beside; exit 130' INT TERM HUP; \
	failed=; \
	$(call part,nftables: packages,$(call run-kernel,nftables)) || failed=yes; \
	$(call part,nftables: several hosts,$(call run-e2e,nftables,-test.run '^TestHosts')) || failed=yes; \
	wait $$beside || failed=yes; cat bin/beside.log; \
	[ -z "$$failed" ]

.PHONY: tests-beside
tests-beside:
	@failed=; \
	$(call part,IPVS: packages,$(call run-kernel,ipvs,,$(LONG))) || failed=yes; \
	$(call part,IPVS: packets,$(call run-e2e,ipvs,-test.run '$(PACKETS)')) || failed=yes; \
	$(call part,nftables: one host,$(call run-e2e,nftables,-test.skip '^TestHosts')) || failed=yes; \
	$(call part,nftables without connect(),$(call run-e2e,nftables,-test.run '$(UNLED)',off)) || failed=yes; \
	[ -z "$$failed" ]

# A run that failed is made again with its SEED.
.PHONY: faults
faults: PLANE := nftables
faults: deps tests ## break tasks, agents, stores, links and disks by chance, under load (FAULTS_TIME=10m, SEED=…, KIND=…, SERVERS=3, CAPTURE=folder, SOCKET=off; PLANE=ipvs)
	cd e2e && ../bin/lab run --plane $(PLANE) $(if $(filter off,$(SOCKET)),--socket-off) --mem 3G --timeout 0 -- ../bin/e2e.test -test.v -test.timeout 0 -test.run '^TestHostsFaults$$' \
		$(if $(FAULTS_TIME),-faults-time $(FAULTS_TIME)) $(if $(SEED),-faults-seed $(SEED)) \
		$(if $(SERVERS),-faults-servers $(SERVERS)) $(if $(KIND),-faults-kind '$(KIND)') $(if $(OLD_BACKUP),-faults-old-backup) \
		$(if $(CAPTURE),-faults-capture '$(abspath $(CAPTURE))')

# They are the same for everyone who makes them of one commit.
ARCHS := amd64,arm64
.PHONY: packages
packages: build ## make .deb, .rpm, tarball and OCI image archive in bin/packages (ARCHS=amd64,arm64)
	cd packaging && $(GO) run . -version "$(VERSION)" -commit "$(COMMIT)" -date "$(DATE)" -archs "$(ARCHS)"

# SUITES=trixie and STEPS=walk,firewalld pick some; QUICK=1 is one host, the walk and the table of who reaches what.
.PHONY: test-hosts
test-hosts: ARCHS := amd64
test-hosts: deps-hosts tools packages ## try shoal on virtual machines of stock Debian (SUITES=, STEPS=, QUICK=1; ACCEL=kvm, MIRROR=http://…)
	$(GO) test -c -tags hosts -o bin/hosts.test ./hosts
	cd hosts && ../bin/hosts.test -test.v -test.timeout 120m -shoal-version "$(VERSION)" $(if $(QUICK),-quick) \
		$(if $(SUITES),-suites "$(SUITES)") $(if $(STEPS),-steps "$(STEPS)") $(if $(ACCEL),-accel "$(ACCEL)") $(if $(MIRROR),-mirror "$(MIRROR)")

.PHONY: ui-test
ui-test: deps-ui ## try the web page in headless Chromium, and make the pictures of docs/ui.md
	SHOAL_UI_SHOTS="$(CURDIR)/docs" $(GO) test -count=1 -tags ui ./ui

.PHONY: images
images: tools ## build the images of the stacks in compose/, on this host's engine
	docker build -q -t shoal/whoami -f compose/whoami/Dockerfile .
	docker build -q -t shoal/agent -f compose/agent/Dockerfile .

.PHONY: demo
demo: deps tools ## show the main job on three hosts: names, VIPs, the routing mesh, a host lost
	@$(LAB) --timeout 10m -- bin/demo

.PHONY: demo-native
demo-native: PLANE := auto
demo-native: demo ## the same with the data plane that this machine's own kernel will do for

.PHONY: demo-shell
demo-shell: deps tools ## a prompt in a running lab of three hosts, to look around
	bin/lab shell --plane $(PLANE) --hosts a,b,c

.PHONY: bench
bench: PLANE := auto
bench: deps tools $(if $(PART)$(VM),,costs) ## measure, and print a table (PLANE=ipvs or nftables, PART=plane, host, rest, cluster, socket or swarm, QUICK=1: a few rounds, VM=trixie: in a virtual machine)
	$(GO) build -trimpath -o bin/ ./cmd/bench
	@$(LAB) --timeout 60m -- bin/bench $(if $(PART),-part $(PART)) $(if $(QUICK),-quick)

.PHONY: costs
costs: ## measure what a change costs where no kernel is needed: 10,000 services, 100,000 tasks, 1,000 hosts
	$(GO) test -run '^$$' -bench OneChange -benchtime 500x ./bench/costs
	$(GO) test -run '^$$' -bench Memory -benchtime 3x ./bench/costs

.PHONY: fleet
fleet: ## simulate many hosts on this machine, and print what they cost (FLEET="-hosts 200 -servers 3"; needs root)
	$(GO) build -trimpath -o bin/ ./cmd/fleet
	@nice bin/fleet $(FLEET)

.PHONY: fuzz
fuzz: ## fuzz each target for a while (FUZZTIME=30s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' $$file); do \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),30s) $$(dirname $$file) </dev/null || exit 1; \
		done; done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
