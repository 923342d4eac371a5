//go:build e2e

package socket

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEveryKindOfSocketIsLedAndSeesTheVIP(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one"), front("0/udp", "rr", "two"), front("443/tcp", "rr", "three:8080"))
	for _, c := range []struct {
		name         string
		family, kind int
		port, want   string
	}{
		{"TCP", unix.AF_INET, unix.SOCK_STREAM, "80", "one:80"},
		{"TCP to another port", unix.AF_INET, unix.SOCK_STREAM, "8080", "one:8080"},
		{"TCP to a mapped port", unix.AF_INET, unix.SOCK_STREAM, "443", "three:8080"},
		{"TCP of an IPv6 socket", unix.AF_INET6, unix.SOCK_STREAM, "80", "one:80"},
		{"TCP of an IPv6 socket to a mapped port", unix.AF_INET6, unix.SOCK_STREAM, "443", "three:8080"},
		{"UDP", unix.AF_INET, unix.SOCK_DGRAM, "80", "two:80"},
		{"UDP of an IPv6 socket", unix.AF_INET6, unix.SOCK_DGRAM, "80", "two:80"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := f.connect(c.family, c.kind, vip+":"+c.port, netip.Addr{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.close()
			want := netip.MustParseAddrPort(vip + ":" + c.port)
			who, from, err := s.hear()
			if err != nil || who != c.want {
				t.Errorf("answer of %s, %v; want %s", who, err, c.want)
			}
			if c.kind == unix.SOCK_DGRAM && from != want {
				t.Errorf("recvmsg says that %s answers, want %s", from, want)
			}
			if got := s.peer(); got != want {
				t.Errorf("getpeername says %s, want %s", got, want)
			}
		})
	}
}

func TestTasksAreTakenInTurn(t *testing.T) {
	f := newFixture(t)
	f.pass(true, front("0/tcp", "rr", "one", "two", "three"))
	got := f.answers(6, vip+":80")
	want := []string{"one", "two", "three", "one", "two", "three"}
	if !slices.Equal(got, want) {
		t.Errorf("answers by %v, want %v", got, want)
	}
}
