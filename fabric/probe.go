package fabric

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// answerTime is how long a peer may take to answer: it is on this host's link.
const answerTime = time.Second

// Prove finds out which peers host-gw reaches until ctx ends, where [Options]
// ask for it. It must be called in the fabric's network namespace.
func (f *Fabric) Prove(ctx context.Context) error {
	if f.proofs == nil {
		return nil
	}
	for {
		self, due, next := f.due(time.Now())
		if len(due) > 0 {
			answered, err := ping(ctx, self.Probe, self.Addr, due)
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				f.learn(due, func(a netip.Addr) bool { return answered[a] }, time.Now())
				continue
			}
			// This host's own address may be about to come.
			f.log.Debug("probe links", "error", err)
			next = time.Now().Add(time.Second)
		}
		sleep := time.Hour
		if !next.IsZero() {
			sleep = time.Until(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-f.waken:
		case <-time.After(sleep):
		}
	}
}

// keepProbe makes the host answer on that address and on none that was one
// before; zero: on none. It is a local route, which takes no device: host-gw
// needs no kernel with tunnels.
func keepProbe(want netip.Addr) error {
	routes, err := kernel.Dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: RouteProtocol},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("list local routes: %w", err)
	}
	var errs []error
	stands := !want.IsValid()
	for _, r := range routes {
		switch dst := prefixOf(r.Dst); {
		case !dst.IsSingleIP(): // the pool of VIPs has the same protocol
		case dst.Addr() == want:
			stands = true
		default:
			errs = append(errs, written("route", "remove the local route "+dst.String(), netlink.RouteDel(&r)))
		}
	}
	if !stands {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.RouteReplace(&netlink.Route{
				LinkIndex: lo.Attrs().Index, Dst: ipNet(netip.PrefixFrom(want, want.BitLen())), Type: unix.RTN_LOCAL,
				Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: RouteProtocol,
			})
		}
		errs = append(errs, written("route", "write the local route "+want.String(), err))
	}
	return errors.Join(errs...)
}

// Proved is signalled when a link turned out to carry what containers send, or
// not to: a full pass acts on it.
func (f *Fabric) Proved() <-chan struct{} { return f.proved }

// Moved is signalled when a pass has written routes.
func (f *Fabric) Moved() <-chan struct{} { return f.moved }

// ping sends each peer two echo requests (RFC 792), from subnet to subnet and
// from host to host; who answered.
func ping(ctx context.Context, probe, own netip.Addr, due []*proof) (map[netip.Addr]bool, error) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	id := int(binary.BigEndian.Uint16(nonce))
	var inner, outer []netip.Addr
	for _, p := range due {
		inner, outer = append(inner, p.peer.Probe), append(outer, p.peer.Addr)
	}
	type result struct {
		answered map[netip.Addr]bool
		err      error
	}
	results := make(chan result, 2)
	for from, to := range map[netip.Addr][]netip.Addr{probe: inner, own: outer} {
		c, err := icmp.ListenPacket("ip4:icmp", from.String())
		if err != nil {
			return nil, fmt.Errorf("send pings from %s: %w", from, err)
		}
		defer c.Close()
		go func() {
			answered, err := echo(ctx, c, to, id, nonce)
			results <- result{answered, err}
		}()
	}
	all := map[netip.Addr]bool{}
	var errs []error
	for range 2 {
		r := <-results
		errs = append(errs, r.err)
		for a := range r.answered {
			all[a] = true
		}
	}
	return all, errors.Join(errs...)
}

// echo sends a request to each, and waits for the replies.
func echo(ctx context.Context, c *icmp.PacketConn, to []netip.Addr, id int, nonce []byte) (map[netip.Addr]bool, error) {
	if err := c.SetReadDeadline(time.Now().Add(answerTime)); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now()) })()
	waiting := map[netip.Addr]bool{}
	for i, a := range to {
		m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: i, Data: nonce}}
		b, err := m.Marshal(nil)
		if err != nil {
			return nil, err
		}
		if _, err := c.WriteTo(b, &net.IPAddr{IP: a.AsSlice()}); err == nil { // else there is no route yet
			waiting[a] = true
		}
	}
	answered := map[netip.Addr]bool{}
	buf := make([]byte, 1500)
	for len(waiting) > 0 {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			break
		}
		if err != nil {
			return nil, err
		}
		ip, ok := from.(*net.IPAddr)
		if !ok {
			continue
		}
		a := addrOf(ip.IP)
		m, err := icmp.ParseMessage(1, buf[:n]) // IANA's number of ICMP
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply || !waiting[a] {
			continue
		}
		if e, ok := m.Body.(*icmp.Echo); ok && e.ID == id && string(e.Data) == string(nonce) {
			answered[a] = true
			delete(waiting, a)
		}
	}
	return answered, nil
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
