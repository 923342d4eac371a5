package ingress

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"shoal/lb"
	"shoal/model"
)

// PortRange are the ports from First to Last, both among them.
type PortRange struct{ First, Last uint16 }

// ParsePortRange reads "8000" or "8000-8999".
func ParsePortRange(s string) (r PortRange, err error) {
	first, last, isRange := strings.Cut(strings.TrimSpace(s), "-")
	if !isRange {
		last = first
	}
	a, err := strconv.ParseUint(first, 10, 16)
	b, err2 := strconv.ParseUint(last, 10, 16)
	if err != nil || err2 != nil || a == 0 || a > b {
		return r, fmt.Errorf("%q: write a port or a range of them, 1 to 65535, as in 8000-8999", s)
	}
	return PortRange{uint16(a), uint16(b)}, nil
}

func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Policy says which ports labels may publish at all, whoever listens on them just
// now: those of the ranges that the operator has set, less the host's own. A label
// must not take the way into a host from its operator, also not while sshd
// restarts. It is safe for concurrent use.
type Policy struct {
	allowed []PortRange // none: all
	own     map[lb.Key]string
	root    string // of the host's files

	mu   sync.Mutex
	read time.Time       // when the files were read
	ssh  map[uint16]bool // ports that they name
	seen map[uint16]bool // ports that root's sshd was seen to listen on
}

// sshEvery is how long it may take until a change of sshd's files is noticed.
const sshEvery = 5 * time.Second

// NewPolicy makes a Policy. own are the ports of this host that are somebody's, with
// the name of that; root is where the host's file system is seen.
func NewPolicy(allowed []PortRange, own map[lb.Key]string, root string) *Policy {
	return &Policy{allowed: allowed, own: own, root: root, seen: map[uint16]bool{}}
}

// Refuse says why a port is not for labels to publish; nil: it is. A nil Policy
// refuses none.
func (p *Policy) Refuse(k lb.Key) error {
	if p == nil {
		return nil
	}
	if who, taken := p.own[lb.Key{Protocol: k.Protocol, Port: k.Port}]; taken {
		return model.PublishRefused.Errorf("port %d/%s is %s: publish another one", k.Port, k.Protocol, who)
	}
	if len(p.allowed) > 0 && !slices.ContainsFunc(p.allowed, func(r PortRange) bool { return r.First <= k.Port && k.Port <= r.Last }) {
		var ranges []string
		for _, r := range p.allowed {
			ranges = append(ranges, r.String())
		}
		return model.PublishRefused.Errorf("port %d is not among those that labels may publish on this host, %s: publish one of them, or start the agent with another --publish-ports",
			k.Port, strings.Join(ranges, ", "))
	}
	if k.Protocol == model.TCP && p.isSSH(k.Port) {
		return model.PublishRefused.Errorf("port %d is sshd's, by which this host is administered: publish another one", k.Port)
	}
	return nil
}

func (p *Policy) isSSH(port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.ssh == nil || now.Sub(p.read) >= sshEvery {
		p.ssh, p.read = sshPorts(p.root), now
	}
	return port == sshPort || p.ssh[port] || p.seen[port]
}

// saw notes that root's sshd listens on a port. It stays sshd's for as long as the agent
// runs.
func (p *Policy) saw(port uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[port] = true
}
