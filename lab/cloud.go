package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// CheckAddresses has the machines' wire carry packets from and to the addresses of machines only, as clouds do that check
// source and destination, until the function that it returns is called or the test ends. It needs br_netfilter.
func (l *Lab) CheckAddresses() (stop func()) {
	l.t.Helper()
	l.onWire("ip", "link", "set", "dev", near.bridge, "type", "bridge", "nf_call_iptables", "1")
	for _, way := range []string{"-s", "-d"} {
		l.onWire("iptables", "-A", "FORWARD", "!", way, near.network.String(), "-j", "DROP")
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		l.onWire("iptables", "-F", "FORWARD")
		l.onWire("ip", "link", "set", "dev", near.bridge, "type", "bridge", "nf_call_iptables", "0")
	}
	l.t.Cleanup(stop)
	return stop
}

// onWire runs a command in the wires' namespace.
func (l *Lab) onWire(args ...string) {
	l.t.Helper()
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), int(l.wire)), "--"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("on the wire: %s: %v: %s", strings.Join(args, " "), err, out)
	}
}
