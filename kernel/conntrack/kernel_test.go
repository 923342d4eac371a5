//go:build e2e

package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/kernel"
	"shoal/model"
)

// TestListFindsConnections lists a connection whose destination is translated, and
// how it ends, in a network namespace of the test's own.
func TestListFindsConnections(t *testing.T) {
	rules := [][]string{
		{"-t", "nat", "-A", "OUTPUT", "-d", "192.0.2.7", "-p", "tcp", "--dport", "80", "-j", "DNAT", "--to-destination", "127.0.0.1:8000"},
		{"-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"},
	}
	err := kernel.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("192.0.2.7/32")
		if err != nil {
			return err
		}
		if err := errors.Join(netlink.LinkSetUp(lo), netlink.AddrAdd(lo, addr)); err != nil {
			return err
		}
		for _, rule := range rules {
			if out, err := exec.Command("iptables", rule...).CombinedOutput(); err != nil {
				return fmt.Errorf("iptables %v: %w: %s", rule, err, out)
			}
		}
		l, err := net.Listen("tcp4", "127.0.0.1:8000")
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("tcp4", "192.0.2.7:80")
		if err != nil {
			return err
		}
		find := func() (found []Entry, err error) {
			return found, List(func(e Entry) bool { found = append(found, e); return true })
		}
		found, err := find()
		if err != nil {
			return err
		}
		want := Entry{
			Protocol: model.TCP, Client: netip.MustParseAddrPort(c.LocalAddr().String()),
			Dest: netip.MustParseAddrPort("192.0.2.7:80"), Server: netip.MustParseAddrPort("127.0.0.1:8000"), Open: true,
		}
		if len(found) == 1 {
			want.ID = found[0].ID
		}
		if len(found) != 1 || found[0] != want || want.ID == 0 {
			t.Errorf("found %+v, want %+v", found, want)
		}
		c.Close()
		if found, err = find(); err == nil && (len(found) != 1 || found[0].Open || found[0].ID != want.ID) {
			t.Errorf("once it is closed: %+v", found)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
