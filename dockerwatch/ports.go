package dockerwatch

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"shoal/model"
)

// parsePorts reads a list of [name:]port[:target][/proto].
func parsePorts(list string) ([]model.Port, error) {
	var ports []model.Port
	for item := range strings.SplitSeq(list, ",") {
		if len(ports) == maxPorts {
			return nil, fmt.Errorf("more than %d ports: leave the label out to serve every port", maxPorts)
		}
		p, err := parsePort(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b model.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	names := map[string]bool{}
	for i, p := range ports {
		if i > 0 && p.Protocol == ports[i-1].Protocol && p.Port == ports[i-1].Port {
			return nil, fmt.Errorf("port %d/%s is there twice", p.Port, p.Protocol)
		}
		name := p.Name + "/" + p.Protocol.String()
		if p.Name != "" && names[name] {
			return nil, fmt.Errorf("port name %s is there twice: a name stands for one port a protocol", name)
		}
		names[name] = true
	}
	return ports, nil
}

func parsePort(item string) (p model.Port, err error) {
	rest, proto, err := cutProtocol(item)
	if err != nil {
		return p, err
	}
	p.Protocol = proto
	parts := strings.Split(rest, ":")
	// A name holds a letter, a number none: they cannot be mistaken.
	if len(parts) > 1 && strings.Trim(parts[0], "0123456789-") != "" {
		p.Name, parts = parts[0], parts[1:]
		if err := checkPortName(p.Name); err != nil {
			return p, err
		}
	}
	if len(parts) > 2 {
		return p, fmt.Errorf("%.60q: write [name:]port[:target][/proto]", item)
	}
	if p.Port, err = parseNumber(parts[0]); err != nil {
		return p, err
	}
	p.Target = p.Port
	if len(parts) == 2 {
		p.Target, err = parseNumber(parts[1])
	}
	return p, err
}

// checkPortName reports why s is no service name by RFC 6335 section 5.1, of
// small letters.
func checkPortName(s string) error {
	if err := model.CheckLabel(s); err != nil {
		return fmt.Errorf("port %w", err)
	}
	if len(s) > 15 {
		return fmt.Errorf("port name %s has %d characters, 15 is the most", s, len(s))
	}
	if strings.Contains(s, "--") {
		return fmt.Errorf("port name %s has two hyphens in a row", s)
	}
	return nil
}

// parsePublish reads a list of [ip:]published[:target][/proto], where
// published and target may be ranges. An address that means every one is left
// out of the result.
func parsePublish(list string) ([]model.PublishedPort, error) {
	var ports []model.PublishedPort
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		ip, published, target, proto, err := parsePublished(item)
		if err != nil {
			return nil, err
		}
		if len(ports)+published.len() > maxPublish {
			return nil, errTooManyPublished
		}
		for i := range published.len() {
			ports = append(ports, model.PublishedPort{
				IP:        ip,
				Published: published.first + uint16(i),
				Target:    target.first + uint16(i),
				Protocol:  proto,
			})
		}
	}
	if err := checkPublished(ports); err != nil {
		return nil, err
	}
	slices.SortFunc(ports, comparePublished)
	return ports, nil
}

var errTooManyPublished = fmt.Errorf("more than %d ports published: one container may publish no more", maxPublish)

// comparePublished orders by protocol, port and address, every address first.
func comparePublished(a, b model.PublishedPort) int {
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Published, b.Published), a.IP.Compare(b.IP))
}

// checkPublished reports too many ports, or two that are the same one.
func checkPublished(ports []model.PublishedPort) error {
	if len(ports) > maxPublish {
		return errTooManyPublished
	}
	ports = slices.SortedFunc(slices.Values(ports), comparePublished)
	for i := 1; i < len(ports); i++ {
		a, b := ports[i-1], ports[i]
		// In this order "every address" comes first: it need be compared with
		// the next alone.
		if a.Protocol == b.Protocol && a.Published == b.Published && (a.IP == b.IP || !a.IP.IsValid()) {
			return fmt.Errorf("port %d/%s is published twice", b.Published, b.Protocol)
		}
	}
	return nil
}

func parsePublished(item string) (ip netip.Addr, published, target portRange, proto model.Protocol, err error) {
	rest, proto, err := cutProtocol(item)
	if err != nil {
		return ip, published, target, proto, err
	}
	ip, rest, err = cutAddr(rest)
	if err != nil {
		return ip, published, target, proto, err
	}
	from, to, mapped := strings.Cut(rest, ":")
	if published, err = parseRange(from); err != nil {
		return ip, published, target, proto, err
	}
	target = published
	if mapped {
		if strings.Contains(to, ":") {
			return ip, published, target, proto, fmt.Errorf("%.60q: write [ip:]published[:target][/proto]", item)
		}
		if target, err = parseRange(to); err != nil {
			return ip, published, target, proto, err
		}
	}
	if published.len() != target.len() {
		return ip, published, target, proto, fmt.Errorf("%.60q: %d ports onto %d: make both ranges equally long",
			item, published.len(), target.len())
	}
	return ip, published, target, proto, nil
}

// cutAddr takes the address off the front of s, if there is one.
func cutAddr(s string) (netip.Addr, string, error) {
	var addr, rest string
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if addr, rest, ok = strings.Cut(inner, "]:"); !ok {
			return netip.Addr{}, "", fmt.Errorf("%.60q: write an IPv6 address as [::1]:8080", s)
		}
	} else if addr, rest, ok = strings.Cut(s, ":"); !ok || strings.Trim(addr, "0123456789-") == "" {
		return netip.Addr{}, s, nil
	}
	ip, err := netip.ParseAddr(addr)
	if err != nil || ip.Zone() != "" || ip.IsMulticast() {
		return netip.Addr{}, "", fmt.Errorf("%.60q is no address of a host: write [ip:]published[:target][/proto]", addr)
	}
	if ip = ip.Unmap(); ip.IsUnspecified() {
		ip = netip.Addr{}
	}
	return ip, rest, nil
}

func cutProtocol(item string) (string, model.Protocol, error) {
	rest, name, ok := strings.Cut(item, "/")
	if !ok {
		return rest, model.TCP, nil
	}
	if len(name) > 20 {
		name = name[:20]
	}
	p, err := model.ParseProtocol(strings.ToLower(name))
	return rest, p, err
}

// portRange is the ports from first to last.
type portRange struct{ first, last uint16 }

func (r portRange) len() int { return int(r.last) - int(r.first) + 1 }

func parseRange(s string) (r portRange, err error) {
	first, last, isRange := strings.Cut(s, "-")
	if r.first, err = parseNumber(first); err != nil {
		return r, err
	}
	r.last = r.first
	if isRange {
		if r.last, err = parseNumber(last); err != nil {
			return r, err
		}
	}
	if r.last < r.first {
		return r, fmt.Errorf("range %d-%d is reversed: write %d-%d", r.first, r.last, r.last, r.first)
	}
	return r, nil
}

// parseNumber reads a port number.
func parseNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	switch {
	case s == "":
		return 0, errors.New("a port number is missing")
	case err != nil || n == 0:
		return 0, fmt.Errorf("port %.20q: use a number from 1 to 65535", s)
	}
	return uint16(n), nil
}
