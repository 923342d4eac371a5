//go:build e2e

package e2e

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/e2e/faults"
	"shoal/lab"
)

var (
	faultsTime    = flag.Duration("faults-time", time.Minute, "how long TestHostsFaults begins new faults")
	faultsKind    = flag.String("faults-kind", "", "only those of its faults whose kind is this, such as \"agent frozen\"")
	faultsServers = flag.Int("faults-servers", 1, "how many of its hosts serve the store, 1 or 3")
	faultsBackup  = flag.Bool("faults-old-backup", false, "the backup that a store is restored from is one of the first service alone, instead of one made just before")
	faultsCapture = flag.String("faults-capture", "", "a folder for what the network does meanwhile: HOST.pcap, how connections begin and are refused, and HOST.conntrack")
	faultsSeed    = flag.Uint64("faults-seed", 0, "the seed of its faults; 0: another one each time")
)

const (
	faultsState = "/run/shoal-state" // a disk of its own on each host
	faultsDisk  = "256m"
	agreeLimit  = 10 * time.Second       // from when a fault is undone until all hosts agree
	loadPause   = 200 * time.Millisecond // between two requests of each worker of a load
	storeLimit  = 30 * time.Second       // until the store answers them all
	rest        = time.Second            // from when they agree to the next fault
	silence     = 30 * time.Second       // the longest that a load may go without an answer
)

// suite is a cluster that is broken again and again, and the load on it.
type suite struct {
	*members
	seed      uint64
	begun     time.Time
	services  []string // of the default stack
	tasks     []suiteTask
	vips      map[string]string
	loads     []*suiteLoad
	windows   []faults.Window
	undo      func() // of the fault that is there; nil: none is
	timeline  []string
	answered  int
	excused   map[string]int
	agreement map[faults.Kind][]time.Duration

	slow   time.Duration // see slowness
	limits faults.Limits
}

// suiteTask is a task that has to be in rotation.
type suiteTask struct {
	container
	service string
}

// suiteLoad is one load of many.
type suiteLoad struct {
	*lab.Load
	what               string
	from, via, service string
	seen               int // of its requests
	last               time.Time
}

// TestHostsFaults breaks tasks, agents, stores, engines, links and disks of three hosts, one at a time, by a plan that is made of a
// seed. Requests go all the time from each host and from a container there, by VIP and by name, and from outside by each host's published
// ports. After each fault no request has failed that could have been served, none was answered by a wrong service, and all hosts agree, with
// their kernels, within ten seconds. `make faults` runs it for as long as asked.
func TestHostsFaults(t *testing.T) {
	s := &suite{seed: cmp.Or(*faultsSeed, rand.Uint64N(1<<32)), services: []string{"one", "two", "three"},
		excused: map[string]int{}, agreement: map[faults.Kind][]time.Duration{},
		slow: slowness()}
	s.limits = faults.Limits{TaskGone: s.slow * faults.Native.TaskGone, HostGone: s.slow * faults.Native.HostGone}
	t.Logf("the seed is %d: make faults SEED=%d FAULTS_TIME=%v", s.seed, s.seed, *faultsTime)
	s.start(t)
	c := faults.Cluster{Services: s.services}
	for _, h := range s.hosts {
		c.Hosts = append(c.Hosts, h.Name())
	}
	c.Servers = c.Hosts[:*faultsServers]
	s.begun = time.Now()
	for step := range faults.Plan(s.seed, c) {
		if time.Since(s.begun) > *faultsTime {
			break
		}
		if *faultsKind != "" && step.Kind != faults.Kind(*faultsKind) {
			continue
		}
		s.step(step)
	}
	for _, l := range s.loads {
		l.Stop()
	}
	s.judge("after the end")
	s.note("%d faults, %d requests answered; failures that a fault excuses: %v", len(s.windows), s.answered, s.excused)
	for _, kind := range slices.Sorted(maps.Keys(s.agreement)) {
		t.Logf("all hosts agreed after %-15s within %v", kind, s.agreement[kind])
	}
}

// start makes the cluster, its tasks and the load.
func (s *suite) start(t *testing.T) {
	l := shared.With(t)
	s.members = &members{t: t, outside: l.Outside()}
	for _, h := range l.Hosts("f1", "f2", "f3") {
		h.Skew(0)
		h.Exec("mkdir", "-p", faultsState)
		h.Exec("mount", "-t", "tmpfs", "-o", "size="+faultsDisk, "tmpfs", faultsState)
		s.hosts = append(s.hosts, &host{h, t})
	}
	t.Cleanup(func() {
		if s.undo != nil {
			s.undo()
		}
		for _, h := range s.hosts {
			if p := h.Agent(); p != nil { // it may have ended: that may be what failed
				_ = p.Signal(syscall.SIGKILL)
				_ = p.Wait(time.Minute) // "signal: killed"
			}
			h.clear()
			_, _ = h.TryExec("umount", faultsState)
		}
		if t.Failed() {
			slices.SortStableFunc(s.timeline, func(a, b string) int { return cmp.Compare(a[:7], b[:7]) }) // some lines came late
			t.Logf("seed %d:\n%s", s.seed, strings.Join(s.timeline, "\n"))
		}
	})
	l.Cluster([]string{"f1", "f2", "f3"}, s.args()...)
	if *faultsServers > 1 {
		for _, h := range s.hosts {
			h.hasRole(h.Name(), "server")
		}
	}
	s.vips = map[string]string{}
	for i, service := range s.services {
		for _, h := range s.hosts {
			h.hasMesh()
			s.tasks = append(s.tasks, s.run(service, h, service+"-"+h.Name(), 5*time.Second))
		}
		s.vips["default/"+service] = s.hosts[0].vip(service)
		if i == 0 {
			s.backup()
		}
	}
	lab.Eventually(t, 2*s.slow*waitLimit, "all hosts agree", func() error { return s.disagreement() })

	load := func(what string, m *lab.Machine, enter []string, via *host, service, url string) {
		run := m.LoadIn(enter, "--each", "--timeout", (s.slow * 5 * time.Second).String(), "--workers", "2", "--interval", (s.slow * s.slow * loadPause).String(), url)
		s.loads = append(s.loads, &suiteLoad{Load: run, what: what, from: m.Name(), via: via.Name(), service: service, last: time.Now()})
	}
	both := strings.Replace(useDNS, "--dns ", "--dns 10.96.0.11 --dns ", 1)
	for _, h := range s.hosts {
		for i, service := range s.services {
			load("by its VIP", &h.Machine, nil, h, service, "http://"+s.vips["default/"+service]+":8000/")
			load("by its published port", s.outside, nil, h, service, fmt.Sprintf("http://%v:%d/", h.Addr(), 8200+i))
		}
		asker := h.run("asker", both, "sleep", "1000000")
		load("by its name", &h.Machine, asker.enter(true), h, s.services[0], "http://"+s.services[0]+":8000/")
	}
	for _, l := range s.loads {
		l.Await(1)
	}
	if *faultsCapture != "" {
		s.capture(*faultsCapture)
	}
}

// capture has the network watched, until the end: of hundreds of requests a second a cause is not to be guessed.
func (s *suite) capture(folder string) {
	machines := []*lab.Machine{s.outside}
	for _, h := range s.hosts {
		machines = append(machines, &h.Machine)
	}
	for _, m := range machines {
		file := filepath.Join(folder, m.Name())
		m.Start("tcpdump", "-i", "any", "-n", "-U", "-Z", "root", "-w", file+".pcap", "tcp[tcpflags] & (tcp-syn|tcp-rst) != 0 or icmp or arp")
		m.Start("sh", "-c", fmt.Sprintf("exec conntrack -E -p tcp -o timestamp,id,extended >%s.conntrack", file))
	}
}

// args are those of every agent. What is in order is compared as often as by default, and not as in other tests.
func (s *suite) args() []string {
	args := []string{"--state-dir", faultsState + "/shoal", "--repair", "10s"}
	if *faultsServers > 1 {
		args = append(args, "--servers", "auto")
	}
	return args
}

// run starts a task, which is in rotation once it has been found healthy.
func (s *suite) run(service string, h *host, name string, interval time.Duration) suiteTask {
	s.t.Helper()
	h.Docker("run", "-d", "--name", name, "--hostname", name, "--network", meshNetwork, "-l", "shoal.service="+service,
		"-l", fmt.Sprintf("shoal.publish=%d:8000", 8200+slices.Index(s.services, service)),
		"--health-cmd", "whoami get http://127.0.0.1:8000/health", "--health-interval", (s.slow * interval).String(), lab.Image)
	return suiteTask{container{h, name}, service}
}

// step breaks something, puts it right, and checks what has come of it.
func (s *suite) step(step faults.Step) {
	s.t.Helper()
	s.note("%v", step)
	w := faults.Window{Step: step, Began: time.Now()}
	s.windows = append(s.windows, w)
	at := len(s.windows) - 1
	s.undo = s.do(step)
	s.windows[at].Broken = time.Now()
	over := time.After(step.Lasts)
	if step.Restarts {
		h := s.host(step.Host)
		h.KillAgent(syscall.SIGKILL)
		h.StartAgent(s.args()...)
		s.windows[at].Restarted = time.Now()
	}
	if step.Starts != "" {
		s.tasks = append(s.tasks, s.run(step.Starts, s.host(step.StartsOn), step.Starts+"-"+step.StartsOn+"-more", time.Second))
	}
	<-over
	undo := s.undo
	s.undo = nil
	undo()
	s.windows[at].Undone = time.Now()
	s.note("it is undone")
	if step.Starts != "" {
		s.tasks[len(s.tasks)-1].healthy()
	}
	s.agree(step, time.Now())
	s.judge(step.String())
	if step.Starts != "" {
		more := s.tasks[len(s.tasks)-1]
		s.note("%s is stopped", more.name)
		more.h.Shoal("stop", more.name)
		more.h.Docker("rm", "-f", more.name)
		s.tasks = s.tasks[:len(s.tasks)-1]
		s.agree(step, time.Now())
		s.judge(step.String() + ", and the task that it started being stopped")
	}
}

// agree waits until all hosts agree, and still do after a rest, and the store answers them.
func (s *suite) agree(step faults.Step, undone time.Time) {
	s.t.Helper()
	var first error
	var took time.Duration
	lab.Eventually(s.t, s.slow*(time.Minute+agreeLimit), fmt.Sprintf("seed %d, %v: all hosts agree", s.seed, step), func() error {
		err := s.disagreement()
		if err == nil {
			took = time.Since(undone).Round(10 * time.Millisecond)
			time.Sleep(rest)
			err = s.disagreement()
		}
		if took := time.Since(undone); err != nil && took > s.slow*agreeLimit && first == nil {
			first = err
			s.fail("%v: after %v the hosts do not agree: %v", step, took.Round(100*time.Millisecond), err)
		}
		return err
	})
	s.agreement[step.Kind] = append(s.agreement[step.Kind], took)
	s.note("all hosts agree, after %v", took)
	for _, h := range s.hosts {
		lab.Eventually(s.t, s.slow*storeLimit, fmt.Sprintf("seed %d, %v: the store answers %s", s.seed, step, h.Name()), func() error {
			st, err := ask[status](h, "status")
			if err == nil && !st.Store.Connected {
				err = fmt.Errorf("%+v", st.Store)
			}
			return err
		})
	}
	if took := time.Since(undone).Round(10 * time.Millisecond); took > s.slow*agreeLimit {
		s.note("the store answers, after %v", took)
	}
}

// disagreement is where hosts differ from what there is; nil: nowhere.
func (s *suite) disagreement() error {
	want, have := faults.View{VIPs: s.vips}, make([]faults.View, len(s.hosts))
	addrsOf := map[string][]string{}
	for _, task := range s.tasks {
		addr := task.addr()
		addrsOf[task.service] = append(addrsOf[task.service], addr)
		want.Rotation = append(want.Rotation, fmt.Sprintf("default/%s %s on %s at %s", task.service, task.name, task.h.Name(), addr))
	}
	for _, addrs := range addrsOf {
		slices.Sort(addrs)
		for _, published := range []bool{false, true} {
			want.Kernel = append(want.Kernel, fmt.Sprintf("published %v: %v", published, addrs))
		}
	}
	for i, h := range s.hosts {
		v, err := h.view()
		if err != nil {
			return err
		}
		have[i] = v
	}
	if all := faults.Differences(want, have); len(all) > 0 {
		return fmt.Errorf("\n  %s", strings.Join(all, "\n  "))
	}
	return nil
}

// view is what the host's agent says, and its kernel does.
func (h *host) view() (faults.View, error) {
	v := faults.View{Host: h.Name(), VIPs: map[string]string{}}
	services, err := ask[[]service](h, "services")
	if err != nil {
		return v, err
	}
	for _, one := range services {
		v.VIPs[one.ID] = one.VIP
	}
	tasks, err := ask[[]struct {
		Service           string
		Node, Name, State string
		Addr              string
	}](h, "tasks")
	if err != nil {
		return v, err
	}
	for _, t := range tasks {
		line := fmt.Sprintf("%s %s on %s at %s", t.Service, t.Name, t.Node, t.Addr)
		if t.State == "running" {
			v.Rotation = append(v.Rotation, line)
		} else {
			v.Others = append(v.Others, line+", "+t.State)
		}
	}
	frontends, err := h.Frontends()
	for _, f := range frontends {
		if addrs := lab.RealServers([]lab.Frontend{f}, f.Published); len(addrs) > 0 {
			v.Kernel = append(v.Kernel, fmt.Sprintf("published %v: %v", f.Published, addrs))
		}
	}
	return v, err
}

// judge looks at the requests that have ended since it last did.
func (s *suite) judge(when string) {
	s.t.Helper()
	var bad []string
	for _, l := range s.loads {
		all := l.Requests()
		for _, one := range all[l.seen:] {
			r := faults.Request{From: l.from, Via: l.via, Service: l.service, By: one.Hostname, Error: one.Error,
				Begun: time.Unix(0, one.Begun), Ended: time.Unix(0, one.Ended)}
			says := fmt.Sprintf("%s  request from %s via %s for %s, %s, begun at %s, ", s.at(r.Ended), r.From, r.Via, r.Service, l.what, s.at(r.Begun))
			switch {
			case r.Wrong():
				bad = append(bad, says+"answered by "+r.By)
			case r.Error == "":
				s.answered++
				l.last = r.Ended
			default:
				why := faults.Excuse(s.windows, r, s.limits)
				if why != "" {
					s.excused[why]++
					s.timeline = append(s.timeline, says+r.Error+": excused, "+why)
				} else {
					bad = append(bad, says+r.Error)
				}
			}
		}
		l.seen = len(all)
		if quiet := time.Since(l.last); quiet > s.slow*silence {
			bad = append(bad, fmt.Sprintf("%s  no request from %s via %s for %s, %s, has been answered for %v", s.at(time.Now()), l.from, l.via, l.service, l.what, quiet))
		}
	}
	if len(bad) > 0 {
		slices.Sort(bad)
		s.timeline = append(s.timeline, bad...)
		s.fail("%s: of the requests, these failed for no reason or went wrong:\n%s", when, strings.Join(bad, "\n"))
	}
}

// fail tells of a failure, and of what the agents logged last.
func (s *suite) fail(format string, args ...any) {
	s.t.Helper()
	what := fmt.Sprintf(format, args...)
	s.timeline = append(s.timeline, s.at(time.Now())+"  FAILED: "+what)
	s.t.Errorf("FAILED, seed %d: %s", s.seed, what)
	for _, h := range s.hosts {
		if p := h.Agent(); p != nil {
			lines := strings.Split(strings.TrimSpace(p.Output()), "\n")
			s.t.Logf("the last that the agent of %s logged:\n%s", h.Name(), strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	}
}

// note adds to the time line.
func (s *suite) note(format string, args ...any) {
	s.t.Helper()
	line := s.at(time.Now()) + "  " + fmt.Sprintf(format, args...)
	s.timeline = append(s.timeline, line)
	s.t.Log(line)
}

// at is a time in the time line, in seconds since the first fault, with the time of day, as agents log it.
func (s *suite) at(t time.Time) string {
	return fmt.Sprintf("%7.2f %s", t.Sub(s.begun).Seconds(), t.UTC().Format("15:04:05.000"))
}
