package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"shoal/kernel/ipset"
	kernelipvs "shoal/kernel/ipvs"
	"shoal/lb"
	"shoal/lb/host"
	"shoal/lb/ipvs"
)

var ipvsPlane = plane{
	name: "ipvs", unused: "10.96.100.0",
	open: func(o lb.PlaneOptions) (lb.DataPlane, error) { return ipvs.New(ipvsOptions(o)) },
	down: func(ctx context.Context, o lb.PlaneOptions) error {
		return errors.Join(host.DropRoute(), ipvs.Down(ctx, ipvsOptions(o)), host.Down(o.StateDir))
	},
	look: func() (look, error) {
		h, err := kernelipvs.New(context.Background())
		return &ipvsLook{h, map[netip.Addr]uint32{}}, err
	},
}

// ipvsOptions give a plane beside those of agents a sandbox of its own.
func ipvsOptions(o lb.PlaneOptions) ipvs.Options {
	return ipvs.Options{PlaneOptions: o, Netns: o.StateDir + "-netns"}
}

type ipvsLook struct {
	*kernelipvs.Handle
	marks map[netip.Addr]uint32 // as last read, of virtual services
}

// The sets from VIPs to marks: of TCP ports, and of UDP, which is the last to be
// filled.
const (
	setTCP = "SHOAL-VIP"
	setUDP = "SHOAL-VIP-UDP"
)

func (l *ipvsLook) vips() (map[netip.Addr]bool, error) {
	held, err := ipset.List(setUDP)
	if errors.Is(err, ipset.ErrNotExist) {
		return nil, nil
	}
	all := map[netip.Addr]bool{}
	for e := range held {
		all[e.Net.Addr()] = true
	}
	return all, err
}

// mark is that of a VIP's virtual service, which it keeps for as long as its host is up; 0: it has none.
func (l *ipvsLook) mark(vip netip.Addr) (uint32, error) {
	if m := l.marks[vip]; m != 0 {
		return m, nil
	}
	held, err := ipset.List(setTCP)
	if err != nil {
		return 0, err
	}
	m := held[ipset.Addr(vip)]
	if m != 0 {
		l.marks[vip] = m
	}
	return m, nil
}

func (l *ipvsLook) rotation(vip netip.Addr) (n int, err error) {
	mark, err := l.mark(vip)
	if err != nil || mark == 0 {
		return 0, err
	}
	found, err := l.Destinations(mark)
	for _, d := range found {
		if d.Weight > 0 {
			n++
		}
	}
	if n == 0 {
		delete(l.marks, vip) // its service may be made anew, with another one
	}
	return n, err
}

// rules mark packets, as those of Docker Swarm do. A rule that marks does not end
// its chain.
func (l *ipvsLook) rules(chain string, n int, addr, like, _ netip.Addr) (string, error) {
	delete(l.marks, like) // it may have been made anew
	mark, err := l.mark(like)
	if err == nil && mark == 0 {
		err = fmt.Errorf("the kernel has no mark for %s", like)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "*mangle\n:%s - [0:0]\n", chain)
	for i := range n - 1 {
		fmt.Fprintf(&s, "-A %s -d %s/32 -j MARK --set-mark %d\n", chain, fakeVIP(i), i+1)
	}
	fmt.Fprintf(&s, "-A %s -d %s/32 -j MARK --set-mark %d\n-A %[1]s -j ACCEPT\n-I PREROUTING -d %[2]s/32 -j %[1]s\nCOMMIT\n", chain, addr, mark)
	return s.String(), err
}
