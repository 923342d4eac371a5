//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/lab"
	"shoal/lab/traffic"
)

// moveLimit is how long a sender may be without answers once its task has left.
func moveLimit() time.Duration {
	if os.Getenv("LAB_KERNEL") == "uml" { // which takes several times as long for everything
		return 10 * time.Second
	}
	return 2 * time.Second
}

// sender is a container with one UDP socket, connected to a VIP, by which it sends steadily. It looks at no errors.
type sender struct {
	container
	vip string
}

func (h *host) sender(name, vip string) *sender {
	h.t.Helper()
	h.run(name, "", "whoami", "load", "--hold", "--each", "--timeout", "200ms", "--interval", "20ms", "udp://"+vip+":9000")
	return &sender{container{h, name}, vip}
}

// requests are those that have ended.
func (s *sender) requests() []traffic.Request {
	s.h.t.Helper()
	return traffic.ParseRequests(s.h.Docker("logs", s.name) + "\n")
}

// answeredBy waits until that one answers.
func (s *sender) answeredBy(want string) (at time.Time) {
	s.h.t.Helper()
	lab.Eventually(s.h.t, waitLimit, s.name+" is answered by "+want, func() error {
		all := s.requests()
		if len(all) == 0 || all[len(all)-1].Hostname != want {
			return fmt.Errorf("%d requests, the last ones %+v", len(all), all[max(0, len(all)-3):])
		}
		for _, r := range all {
			if r.Hostname == want {
				at = time.Unix(0, r.Ended) // of the last time in a row
				break
			}
		}
		return nil
	})
	return at
}

// follows checks how long it took since from until that one answered, and that nobody closed the socket.
func (s *sender) follows(from time.Time, want string) {
	s.h.t.Helper()
	s.answeredBy(want)
	took := time.Duration(-1)
	for _, r := range s.requests() {
		if strings.Contains(r.Error, "abort") || strings.Contains(r.Error, "destination address") {
			s.h.t.Errorf("%s: its socket was closed: %s", s.name, r.Error)
		}
		if ended := time.Unix(0, r.Ended); took < 0 && r.Hostname == want && ended.After(from) {
			took = ended.Sub(from)
		}
	}
	s.h.t.Logf("%s: answered by %s %v after", s.name, want, took.Round(time.Millisecond))
	if took > moveLimit() {
		s.h.t.Errorf("%s: answered by %s only after %v", s.name, want, took)
	}
}

// by is what the kernel has its socket connected to.
func (s *sender) by() string {
	s.h.t.Helper()
	fields := strings.Fields(s.h.Exec(append(s.enter(false), "ss", "-Hnu", "state", "established")...))
	if len(fields) != 4 {
		s.h.t.Errorf("%s: its sockets are %q", s.name, fields)
		return ""
	}
	addr, _, _ := strings.Cut(fields[3], ":")
	return addr
}

// TestDatagramsFollowTheirService: a client that only sends, by one connected socket, is answered by another task soon after its own
// is gone, drains, or comes to be without an agent that runs all the time.
func TestDatagramsFollowTheirService(t *testing.T) {
	h := home(t)
	labels := "-l shoal.service=flow -l shoal.drain=10s"
	tasks := map[string]container{}
	for _, name := range []string{"flow-1", "flow-2"} {
		tasks[name] = h.run(name, labels, everything(t)...)
	}
	vip := h.vip("flow")
	h.answered(h.web("flow"), "flow-1", "flow-2")
	var senders []*sender
	for i := range 2 {
		senders = append(senders, h.sender(fmt.Sprintf("sender-%d", i), vip))
	}
	where := func(task string) {
		t.Helper()
		for _, s := range senders {
			want := vip
			if lab.SocketBalancing() && task != "" {
				want = tasks[task].addr()
			}
			lab.Eventually(t, waitLimit, s.name+" is connected to "+want, func() error {
				if at := s.by(); at != want {
					return fmt.Errorf("it is connected to %s", at)
				}
				return nil
			})
		}
	}
	all := func(from time.Time, want string) {
		t.Helper()
		for _, s := range senders {
			s.follows(from, want)
		}
	}
	back := func(task string) {
		t.Helper()
		h.Docker("start", task)
		h.task(task, "running")
		h.answered(h.web("flow"), "flow-1", "flow-2")
	}

	began := time.Now()
	h.Docker("kill", "flow-1")
	all(began, "flow-2")
	where("flow-2")

	// A new agent adopts what it finds, and moves what the one before has led.
	back("flow-1")
	h.KillAgent(syscall.SIGKILL)
	h.StartAgent()
	h.ready()
	began = time.Now()
	h.Docker("rm", "-f", "flow-2")
	all(began, "flow-1")
	where("flow-1")

	// One that drains has no more datagrams to answer.
	tasks["flow-2"] = h.run("flow-2", labels, everything(t)...)
	h.answered(h.web("flow"), "flow-1", "flow-2")
	began = time.Now()
	stop := h.Start("docker", "stop", "--time", "10", "flow-1")
	all(began, "flow-2")
	where("flow-2")
	if err := stop.Wait(waitLimit); err != nil {
		t.Error(err)
	}

	// Without a task nobody answers; the data plane serves who waits, once there is one.
	h.Docker("kill", "flow-2")
	for _, s := range senders {
		lab.Eventually(t, waitLimit, s.name+" is refused", func() error {
			requests := s.requests()
			if last := requests[len(requests)-1]; last.Error != "connection refused" {
				return fmt.Errorf("the last one: %+v", last)
			}
			return nil
		})
	}
	where("")
	h.Docker("start", "flow-1")
	for _, s := range senders {
		s.answeredBy("flow-1")
	}
	where("")

	if !lab.SocketBalancing() {
		return
	}
	// Switched off, it leaves no socket with a task.
	led := h.sender("sender-led", vip)
	led.answeredBy("flow-1")
	if at := led.by(); at != tasks["flow-1"].addr() {
		t.Errorf("it is connected to %s, not to its task", at)
	}
	back("flow-2")
	h.KillAgent(syscall.SIGKILL)
	h.StartAgent("--socket-balancing", "off")
	h.ready()
	if at := led.by(); at != vip {
		t.Errorf("switched off, it is connected to %s", at)
	}
	senders = append(senders, led)
	began = time.Now()
	h.Docker("kill", "flow-1")
	all(began, "flow-2")
	h.KillAgent(syscall.SIGKILL)
	h.StartAgent()
	h.ready()
}
