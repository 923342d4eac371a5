//go:build e2e

package sockets

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"shoal/lab/wait"
)

// datagramsEnv has the test's program be a process with connected UDP sockets, of two networks.
const datagramsEnv = "SHOAL_TEST_DATAGRAMS"

// The client's addresses, and others in its networks, of whom nobody is there.
const (
	nearOwn, farOwn           = "192.0.2.1", "198.51.100.1"
	near, nearToo, far, third = "192.0.2.2:7", "192.0.2.3:7", "198.51.100.2:7", "203.0.113.9:7"
)

// datagramKind is a kind of UDP socket.
type datagramKind struct {
	name   string
	family int
	bind   string // an address, or port, that its process chose
	device bool   // it is bound to the device of the far network
}

var datagramKinds = []datagramKind{
	{name: "plain", family: unix.AF_INET},
	{name: "mapped", family: unix.AF_INET6},
	{name: "address", family: unix.AF_INET, bind: nearOwn + ":0"},
	{name: "port", family: unix.AF_INET, bind: "0.0.0.0:4007"},
	{name: "both", family: unix.AF_INET, bind: nearOwn + ":4008"},
	{name: "device", family: unix.AF_INET, device: true},
	{name: "unconnected", family: unix.AF_INET},
	{name: "unheld", family: unix.AF_INET}, // on its way from one process to another
}

// runDatagrams says the cookie of one socket of each kind, all connected to near, and the own address, the peer and the
// device of each, whenever it is asked.
func runDatagrams() error {
	for name, addr := range map[string]string{"near": nearOwn, "far": farOwn} {
		link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
		a, err := netlink.ParseAddr(addr + "/24")
		if err == nil {
			err = errors.Join(netlink.LinkAdd(link), netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
		}
		if err != nil {
			return err
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	var all []int
	for _, k := range datagramKinds {
		fd, err := k.open()
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if err != nil {
			return err
		}
		fmt.Println(k.name, cookie)
		if k.name == "unheld" {
			if err := sendAway(fd); err != nil {
				return err
			}
			fd = -1
		}
		all = append(all, fd)
	}
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		for i, k := range datagramKinds {
			own, _ := nameOf(unix.Getsockname(all[i]))
			peer, _ := nameOf(unix.Getpeername(all[i]))
			device, _ := unix.GetsockoptInt(all[i], unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
			fmt.Println(k.name, own, peer, device != 0)
		}
	}
	return nil
}

func (k datagramKind) open() (int, error) {
	fd, err := unix.Socket(k.family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil || k.name == "unconnected" {
		return fd, err
	}
	if k.bind != "" {
		if err := unix.Bind(fd, sockaddrOf(k.family, netip.MustParseAddrPort(k.bind))); err != nil {
			return fd, err
		}
	}
	if k.device {
		link, err := netlink.LinkByName("far")
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, link.Attrs().Index)
		}
		if err == nil {
			err = unix.Connect(fd, sockaddrOf(k.family, netip.MustParseAddrPort(far)))
		}
		return fd, err
	}
	return fd, unix.Connect(fd, sockaddrOf(k.family, netip.MustParseAddrPort(near)))
}

// sendAway has the socket in a message that nobody takes.
func sendAway(fd int) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0), unix.Close(fd))
}

// datagramHost is the process that [runDatagrams] is.
type datagramHost struct {
	cookies map[string]uint64
	stdin   io.Writer
	out     *bufio.Scanner
	cmd     *exec.Cmd
}

func startDatagrams(t *testing.T) *datagramHost {
	t.Helper()
	h := &datagramHost{cookies: map[string]uint64{}, cmd: exec.Command("/proc/self/exe")}
	h.cmd.Env = []string{datagramsEnv + "=1"}
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := h.cmd.StdoutPipe()
	if err == nil {
		h.stdin, err = h.cmd.StdinPipe()
	}
	if err == nil {
		err = h.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.cmd.Process.Kill(); _ = h.cmd.Wait() })
	h.out = bufio.NewScanner(out)
	for h.out.Scan() && h.out.Text() != "ready" {
		name, cookie, _ := strings.Cut(h.out.Text(), " ")
		if h.cookies[name], err = strconv.ParseUint(cookie, 10, 64); err != nil {
			t.Fatalf("%q: %v", h.out.Text(), err)
		}
	}
	if len(h.cookies) != len(datagramKinds) {
		t.Fatalf("sockets: %v", h.cookies)
	}
	return h
}

// state is how a socket is.
type state struct {
	own, peer string
	device    bool
}

func (h *datagramHost) states(t *testing.T) map[string]state {
	t.Helper()
	if _, err := io.WriteString(h.stdin, "\n"); err != nil {
		t.Fatal(err)
	}
	all := map[string]state{}
	for range datagramKinds {
		if !h.out.Scan() {
			t.Fatal("the process has ended")
		}
		var name string
		var s state
		if _, err := fmt.Sscan(h.out.Text(), &name, &s.own, &s.peer, &s.device); err != nil && !strings.Contains(h.out.Text(), "invalid") {
			t.Fatalf("%q: %v", h.out.Text(), err)
		}
		all[name] = s
	}
	return all
}

// port is that of a state's own address.
func (s state) port() string { return s.own[strings.LastIndex(s.own, ":"):] }

// peersOf has these sockets be connected from one address to another.
func (h *datagramHost) peersOf(from, to string, names ...string) map[uint64]Peer {
	all := map[uint64]Peer{}
	for _, name := range names {
		all[h.cookies[name]] = Peer{Named: netip.MustParseAddrPort(to), Real: netip.MustParseAddrPort(from)}
	}
	return all
}

func TestDatagramSocketsAreConnectedAgain(t *testing.T) {
	if err := CanReconnect(); err != nil {
		t.Fatal(err)
	}
	bound := []string{"plain", "mapped", "address", "port", "both"}
	hosts := []*datagramHost{startDatagrams(t), startDatagrams(t)}
	for _, h := range hosts {
		before := h.states(t)
		again := func(from, to string, names ...string) {
			t.Helper()
			found, err := Reconnect(inTime(t), h.peersOf(from, to, names...), nil)
			if err != nil || len(found) != len(names) {
				t.Errorf("%v: found %v, %v", names, found, err)
			}
			for _, name := range names {
				if err := found[h.cookies[name]]; err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		// To a peer that is reached the same way all stays, but for the peer.
		again(near, nearToo, bound...)
		for name, now := range h.states(t) {
			if want := before[name]; want.peer == near {
				want.peer = nearToo
				if now != want && name != "unheld" {
					t.Errorf("%s: was %+v, is %+v", name, before[name], now)
				}
			}
		}
		// To one in another network, the kernel chooses what it chose before.
		again(nearToo, far, bound...)
		now := h.states(t)
		for name, own := range map[string]string{"plain": farOwn, "mapped": farOwn, "address": nearOwn, "port": farOwn, "both": nearOwn} {
			if want := (state{own: own + before[name].port(), peer: far}); now[name] != want {
				t.Errorf("%s, to another network: is %+v, want %+v", name, now[name], want)
			}
		}
		// One that is bound to a device stays so.
		again(far, near, "device")
		if got := h.states(t)["device"]; got.peer != near || !got.device || got.port() != before["device"].port() {
			t.Errorf("bound to a device: %+v, was %+v", got, before["device"])
		}
	}
}

func TestWhatIsNotConnectedAgain(t *testing.T) {
	h := startDatagrams(t)
	before := h.states(t)
	peers := h.peersOf(third, far, "plain", "unconnected", "unheld")
	peers[1<<63] = Peer{Named: netip.MustParseAddrPort(far)} // nobody's
	found, err := Reconnect(inTime(t), peers, nil)
	if err != nil || len(found) != 2 || !errors.Is(found[h.cookies["plain"]], ErrElsewhere) || !errors.Is(found[h.cookies["unheld"]], errUnheld) {
		t.Errorf("found %v, %v", found, err)
	}
	if now := h.states(t); now["plain"] != before["plain"] || now["unconnected"] != before["unconnected"] {
		t.Errorf("they were %+v, and are %+v", before, now)
	}
	if found, err := Reconnect(inTime(t), h.peersOf(near, third, "plain"), nil); err != nil || !errors.Is(found[h.cookies["plain"]], unix.ENETUNREACH) {
		t.Errorf("without a route: %v, %v", found, err)
	}
	if now := h.states(t); now["plain"] != before["plain"] {
		t.Errorf("without a route it was %+v, and is %+v", before["plain"], now["plain"])
	}
}

// TestASocketThatSeveralProcessesHaveIsConnectedOnce: else a program would choose a task for each.
func TestASocketThatSeveralProcessesHaveIsConnectedOnce(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0) // children have it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	from := netip.MustParseAddrPort("127.0.0.1:7")
	if err := unix.Connect(fd, sockaddrOf(unix.AF_INET, from)); err != nil {
		t.Fatal(err)
	}
	copied, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(copied), "socket")
	defer file.Close()
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("sleep", "1000")
	child.ExtraFiles = []*os.File{file}
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Process.Kill(); _ = child.Wait() }()
	times := 0
	led := func(uint64) netip.AddrPort { times++; return netip.AddrPort{} }
	found, err := ReconnectHere(inTime(t), map[uint64]Peer{cookie: {Named: from}}, led)
	if how, is := found[cookie]; err != nil || !is || how != nil || times != 1 {
		t.Errorf("found %v, %v; connected %d times", found, err, times)
	}
}

// TestASocketThatIsLockedHoldsUpNobodyElse: its process sends from memory that only it could fill, and does not.
func TestASocketThatIsLockedHoldsUpNobodyElse(t *testing.T) {
	if os.Getenv("LAB_KERNEL") == "uml" {
		t.Skip("User-Mode Linux does nothing else while it copies from memory that nobody fills")
	}
	page := os.Getpagesize()
	uffd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		t.Fatalf("userfaultfd: %v", errno)
	}
	api := struct{ api, features, ioctls uint64 }{api: 0xaa}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, 0xc018aa3f, uintptr(unsafe.Pointer(&api))); errno != 0 {
		t.Fatalf("UFFDIO_API: %v", errno)
	}
	memory, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	register := struct{ start, length, mode, ioctls uint64 }{uint64(uintptr(unsafe.Pointer(&memory[0]))), uint64(page), 1, 0}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uffd, 0xc020aa00, uintptr(unsafe.Pointer(&register))); errno != 0 {
		t.Fatalf("UFFDIO_REGISTER: %v", errno)
	}
	from, to := netip.MustParseAddrPort("127.0.0.1:7"), netip.MustParseAddrPort("127.0.0.1:9")
	locked, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(locked, sockaddrOf(unix.AF_INET, from))
	}
	if err != nil {
		t.Fatal(err)
	}
	cookie, err := unix.GetsockoptUint64(locked, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		t.Fatal(err)
	}
	others := startDatagrams(t)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// MSG_MORE: the kernel gathers what is sent, and holds the lock while it copies (udp_sendmsg in net/ipv4/udp.c).
		_, _, _ = unix.Syscall6(unix.SYS_SENDTO, uintptr(locked), uintptr(register.start), 8, unix.MSG_MORE, 0, 0)
	}()
	release := func() {
		zero := struct {
			start, length, mode uint64
			zeropage            int64
		}{register.start, uint64(page), 0, 0}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uffd, 0xc020aa04, uintptr(unsafe.Pointer(&zero)))
	}
	fault := []unix.PollFd{{Fd: int32(uffd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fault, 10_000); n != 1 {
		t.Fatalf("nobody waits for the memory: %v", err)
	}
	begun := time.Now()
	peers := others.peersOf(near, nearToo, "plain", "mapped")
	peers[cookie] = Peer{Named: to, Real: from}
	for range 3 { // it is known by then, and not waited for any more
		found, err := Reconnect(inTime(t), peers, nil)
		if err != nil || !errors.Is(found[cookie], ErrBusy) || len(found) != 3 {
			t.Errorf("after %v: found %v, %v", time.Since(begun), found, err)
		}
	}
	if now := others.states(t); now["plain"].peer != nearToo || now["mapped"].peer != nearToo {
		t.Errorf("those of another process: %+v", now)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	release()
	<-sent
	wait.For(t, 5*time.Second, "what hung is done", func() bool { at, _ := nameOf(unix.Getpeername(locked)); return at == to })
	unix.Close(locked)
	unix.Close(int(uffd))
}
