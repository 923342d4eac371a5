package diagnose

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"shoal/api"
	"shoal/model"
)

// target is what a word on the command line names: a thing by its name, or
// address, or a port, of such a thing or of a host ("": this one).
type target struct {
	name  string // "" where a port is named
	host  string
	port  uint16 // 0: none is named
	proto model.Protocol
}

// parseTarget reads NAME, STACK/NAME, ADDRESS, each with :PORT[/PROTO] or without,
// and URLs.
func parseTarget(s string) (t target, err error) {
	word := strings.TrimSpace(s)
	scheme, rest, isURL := strings.Cut(word, "://")
	if isURL {
		word, _, _ = strings.Cut(rest, "/")
		if port := map[string]string{"http": ":80", "https": ":443"}[scheme]; port != "" && !strings.Contains(word, ":") {
			word += port
		}
		if _, err := model.ParseProtocol(scheme); err == nil && strings.Contains(word, ":") {
			word += "/" + scheme
		}
	}
	if word == "" {
		return t, errors.New("say what: a name, or HOST:PORT")
	}
	if addr, err := netip.ParseAddr(word); err == nil && addr.Is6() && !addr.Is4In6() {
		return t, fmt.Errorf("%q: the mesh carries IPv4 only; write a port as HOST:PORT", s)
	}
	if strings.Contains(word, ":") {
		t.host, t.port, t.proto, err = splitPort(word)
		return t, err
	}
	t.name = word
	if strings.Contains(word, "/") {
		_, err = model.ParseServiceID(word)
	}
	return t, err
}

// splitPort reads HOST:PORT[/PROTO], where the host may be stack/name.
func splitPort(s string) (host string, port uint16, proto model.Protocol, err error) {
	proto = model.TCP
	hostport := s
	if i := strings.LastIndexByte(s, '/'); i > strings.LastIndexByte(s, ':') {
		if proto, err = model.ParseProtocol(s[i+1:]); err != nil {
			return "", 0, 0, fmt.Errorf("port %q: %w", s, err)
		}
		hostport = s[:i]
	}
	host, number, err := net.SplitHostPort(hostport)
	if err == nil {
		var n uint64
		n, err = strconv.ParseUint(number, 10, 16)
		port = uint16(n)
	}
	if err != nil || port == 0 {
		return "", 0, 0, fmt.Errorf("port %q: write it as HOST:PORT or HOST:PORT/PROTO, with a port from 1 to 65535", s)
	}
	return host, port, proto, nil
}

// meaning is what a target is: a port of a host, services, or containers.
type meaning struct {
	target
	published  bool       // a port of a host
	node       model.Node // that host
	name       string     // what a container would ask for; "": it would not ask for a name
	services   []*model.Service
	containers []*model.Container
}

func (m *meaning) asked() askedPort { return askedPort{m.port, m.proto} }

// means finds what a word names.
func (in *Inspector) means(s *model.Snapshot, word string) (m meaning, err error) {
	if len(word) > maxTraced {
		return m, wrong("a name of %d characters: %d is the most", len(word), maxTraced)
	}
	if m.target, err = parseTarget(word); err != nil {
		return m, wrong("%w", err)
	}
	what := orElse(m.target.name, m.host)
	if m.port != 0 {
		if n, err := findHost(s, m.host); err == nil {
			m.published, m.node = true, n
			return m, nil
		}
	}
	if addr, err := netip.ParseAddr(what); err == nil {
		m.services, m.containers = atAddr(s, addr.Unmap())
		return m, nil
	}
	m.services, m.name = in.named(s, what)
	if m.containers = findContainers(s, what); len(m.services) == 0 && len(m.containers) == 1 && len(m.containers[0].Tasks) > 0 {
		if id := m.containers[0].Tasks[0].Service; m.name != "" {
			m.name = id.Name + "." + id.Stack
		}
	}
	return m, nil
}

// named finds the services of a name, in any form of it, and what a container
// would ask for.
func (in *Inspector) named(s *model.Snapshot, word string) (found []*model.Service, asks string) {
	stack, name, slashed := strings.Cut(word, "/")
	if slashed {
		if svc, ok := s.Service(model.ServiceID{Stack: stack, Name: name}); ok {
			found = append(found, svc)
		}
		return found, name + "." + stack
	}
	plain := strings.TrimSuffix(strings.ToLower(word), ".")
	plain = strings.TrimSuffix(plain, "."+in.Zone)
	labels := strings.Split(plain, ".")
	for len(labels) > 1 && (strings.HasPrefix(labels[0], "_") || labels[0] == "tasks") {
		labels = labels[1:]
	}
	for _, svc := range s.Services {
		if id := svc.ID; id.Name == labels[0] && (len(labels) == 1 || len(labels) == 2 && id.Stack == labels[1]) {
			found = append(found, svc)
		}
	}
	return found, word
}

// Service finds the service that a word means, in any form that [Inspector.Explain]
// takes. The error is an [api.ErrNotFound] where there is none.
func (in *Inspector) Service(word string) (id model.ServiceID, err error) {
	s, err := in.Snapshot()
	if err != nil {
		return id, err
	}
	m, err := in.means(s, word)
	if err != nil {
		return id, fmt.Errorf("%w: %w", api.ErrNotFound, err)
	}
	svc, err := m.service(s)
	if err != nil {
		return id, err
	}
	if svc == nil {
		return id, fmt.Errorf("%w: no service is called %q; see shoal services", api.ErrNotFound, word)
	}
	return svc.ID, nil
}

// atAddr finds whose an address is: a service's VIP, or containers'.
func atAddr(s *model.Snapshot, addr netip.Addr) (services []*model.Service, containers []*model.Container) {
	for _, svc := range s.Services {
		if svc.VIP == addr {
			return []*model.Service{svc}, nil
		}
	}
	for c := range s.Containers.All() {
		n, _ := nodeOf(s, c.Node)
		if slices.Contains(c.Addrs, addr) && (c.Node == s.Self.Name || n.Subnet.Contains(addr)) {
			containers = append(containers, c)
		}
	}
	return nil, containers
}

// findContainers finds containers by name, ID or the beginning of an ID.
func findContainers(s *model.Snapshot, what string) (found []*model.Container) {
	for c := range s.Containers.All() {
		if c.Name == what || len(what) >= 4 && strings.HasPrefix(c.ID, what) {
			found = append(found, c)
		}
	}
	return found
}

// service is the only one that is meant: by a name of it, its address, or a
// container of it. Nil: none is.
func (m *meaning) service(s *model.Snapshot) (*model.Service, error) {
	switch {
	case len(m.services) == 1:
		return m.services[0], nil
	case len(m.services) > 1:
		word := orElse(m.target.name, m.host)
		return nil, fmt.Errorf("%q is a service of several stacks (%s): write it as stack/name, or as name.stack", word, ids(m.services))
	}
	for _, c := range m.containers {
		for i := range c.Tasks {
			if svc, ok := s.Service(c.Tasks[i].Service); ok {
				return svc, nil
			}
		}
	}
	return nil, nil
}

func ids(services []*model.Service) string {
	var all []string
	for _, s := range services {
		all = append(all, s.ID.String())
	}
	return strings.Join(all, ", ")
}

// wrongInput is an [api.ErrBadRequest] in words of its own.
type wrongInput struct{ error }

func (wrongInput) Is(target error) bool { return target == api.ErrBadRequest }
func (e wrongInput) Unwrap() error      { return e.error }

func wrong(format string, args ...any) error { return wrongInput{fmt.Errorf(format, args...)} }

// unknown is the error of a word that names nothing, with names that are alike; where it
// has a port, and may mean a host, with the hosts that there are.
func (m *meaning) unknown(s *model.Snapshot) error {
	word, alike := orElse(m.target.name, m.host), ""
	best := 3
	for _, svc := range s.Services {
		for _, name := range []string{svc.ID.Name, svc.ID.String()} {
			if d := changes(word, name); d < best && 2*d < len(name) {
				best, alike = d, fmt.Sprintf("; did you mean %s?", svc.ID)
			}
		}
	}
	if m.port != 0 {
		return wrong("no host, service or container of the cluster is called %q%s: %s; see shoal services", word, alike, hostsText(s))
	}
	return fmt.Errorf("%w: no service, container or address of the mesh is called %q%s: see shoal services; a container needs the label shoal.service=NAME", api.ErrNotFound, word, alike)
}

// changes is how many letters are to be put in, taken out or changed to make b of
// a (Levenshtein's distance), as far as 3.
func changes(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 3
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := last
			if a[i] != b[j] {
				d++
			}
			last, row[j+1] = row[j+1], min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
