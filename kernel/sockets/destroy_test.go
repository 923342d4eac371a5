package sockets

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/model"
)

// answer is what the kernel says of a socket, struct inet_diag_msg: from
// 10.244.0.3:40000 to 10.244.1.2:8000, over no device in particular.
func answer(cookie uint64) []byte {
	m, err := hex.DecodeString("02010000" + // AF_INET, established, no timer
		"9c401f40" + "0af40003" + strings.Repeat("0", 24) + "0af40102" + strings.Repeat("0", 24) + "00000000" +
		strings.Repeat("0", 16) + strings.Repeat("0", 40))
	if err != nil {
		panic(err)
	}
	binary.NativeEndian.PutUint32(m[44:], uint32(cookie))
	binary.NativeEndian.PutUint32(m[48:], uint32(cookie>>32))
	return m
}

func message(kind, flags uint16, data []byte) syscall.NetlinkMessage {
	return syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: kind, Flags: flags}, Data: data}
}

func TestSocketsArePickedByTheirCookies(t *testing.T) {
	errno := func(e unix.Errno) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(-int32(e))) }
	const few, many = 7, 1<<32 + 7 // they differ in the upper word alone
	for name, tt := range map[string]struct {
		answers []syscall.NetlinkMessage
		states  States
		found   int
		done    bool
		err     error
	}{
		"wanted":          {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(many))}, Connected, 1, false, nil},
		"another":         {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(few))}, Connected, 0, false, nil},
		"another state":   {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(many))}, Connecting, 0, false, nil},
		"twice":           {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(many)), message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(many))}, Connected, 1, false, nil},
		"too short":       {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(many)[:71])}, Connected, 0, false, nil},
		"the end":         {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, 0, answer(many)), message(unix.NLMSG_DONE, 0, errno(0))}, Connected, 1, true, nil},
		"a bare end":      {[]syscall.NetlinkMessage{message(unix.NLMSG_DONE, 0, nil)}, Connected, 0, true, nil},
		"an error":        {[]syscall.NetlinkMessage{message(unix.NLMSG_ERROR, 0, errno(unix.ENOENT))}, Connected, 0, true, unix.ENOENT},
		"a failed end":    {[]syscall.NetlinkMessage{message(unix.NLMSG_DONE, 0, errno(unix.EPERM))}, Connected, 0, true, unix.EPERM},
		"interrupted":     {[]syscall.NetlinkMessage{message(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP_INTR, answer(many))}, Connected, 1, false, netlink.ErrDumpInterrupted},
		"interrupted end": {[]syscall.NetlinkMessage{message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, errno(0))}, Connected, 0, true, netlink.ErrDumpInterrupted},
	} {
		t.Run(name, func(t *testing.T) {
			found := map[uint64]socket{}
			done, err := pick(tt.answers, map[uint64]States{many: tt.states}, found)
			if done != tt.done || !errors.Is(err, tt.err) || len(found) != tt.found {
				t.Errorf("found %d, done %v, error %v", len(found), done, err)
			}
			if s, ok := found[many]; ok && string(s.id[:]) != string(answer(many)[4:52]) {
				t.Errorf("the socket is %x", s.id)
			}
		})
	}
}

func TestARequestNamesFamilyProtocolAndStates(t *testing.T) {
	got := table{unix.AF_INET6, model.UDP}.request(Connected)
	want := make([]byte, 56)
	want[0], want[1] = 10, 17
	binary.NativeEndian.PutUint32(want[4:], 0xb36) // without LISTEN (10), CLOSE (7), TIME_WAIT (6) and SYN_RECV (3)
	if string(got) != string(want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func TestNothingIsLookedForWithoutCookies(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // whoever looked would see this
	if n, err := Destroy(ctx, nil); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
