package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"shoal/lab/clock"
)

// Machine is a set of namespaces with one interface, eth0, on the wire.
type Machine struct {
	*machine
	t T
}

type machine struct {
	w      *world
	name   string
	wire   wire
	addr   netip.Addr
	dir    string
	number int // of a host, from 1
	init   *exec.Cmd
	room   *room
	group  *os.File // the control group of its processes, nil where there is no version 2 hierarchy

	mu      sync.Mutex
	engine  *Process
	agent   *Process
	args    []string     // the agent's
	program string       // the agent's; "": shoal
	clock   *clock.Clock // of the agent; nil: the machine's own
}

// addMachine makes a machine whose address is the n-th of a wire.
func (w *world) addMachine(name string, on wire, n int) (_ *machine, err error) {
	m := &machine{w: w, name: name, wire: on, addr: on.addr(n), dir: filepath.Join(w.dir, name)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make machine %s: %w", name, err), m.close())
		}
	}()
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(m.resolvConf(), []byte("nameserver "+near.addr(1).String()+"\n"), 0o644); err != nil {
		return nil, err
	}
	if err := m.makeCgroup(); err != nil {
		return nil, err
	}
	if err := m.startInit(); err != nil {
		return nil, err
	}
	return m, m.plugInto(on, "eth0", m.addr)
}

func (m *machine) resolvConf() string { return filepath.Join(m.dir, "resolv.conf") }

// startInit starts the machine's first process, which makes its namespaces, and enters them.
func (m *machine) startInit() error {
	ready, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	var said strings.Builder
	m.init = exec.Command(filepath.Join(m.w.bin, "lab"), "machine", m.name, m.dir)
	m.init.Stderr = &said
	m.init.ExtraFiles = []*os.File{w}
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Setpgid:    true,
		Pdeathsig:  syscall.SIGKILL,
	}
	m.room = newRoom()
	// Its death is to follow that of this process, not that of whichever thread: so that thread starts it that stays.
	m.room.do(func() { err = m.placed(m.init).Start() })
	w.Close()
	if err != nil {
		m.init = nil
		return fmt.Errorf("start its first process: %w", err)
	}
	if n, _ := ready.Read(make([]byte, 1)); n != 1 {
		err := m.init.Wait()
		m.init = nil
		return fmt.Errorf("its first process: %w: %s", err, said.String())
	}
	if err := os.WriteFile(filepath.Join(m.dir, "pid"), []byte(strconv.Itoa(m.init.Process.Pid)), 0o644); err != nil {
		return err
	}
	m.room.do(func() { err = enter(m.init.Process.Pid) })
	return err
}

// plugInto joins the machine to a wire by an interface with that address.
func (m *machine) plugInto(on wire, dev string, addr netip.Addr) error {
	ns, err := netns.GetFromPath(m.netns())
	if err != nil {
		return err
	}
	defer ns.Close()
	bridge, err := m.w.link.LinkByName(on.bridge)
	if err != nil {
		return fmt.Errorf("find the wire's bridge: %w", err)
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: m.port(on), MasterIndex: bridge.Attrs().Index, Flags: 1}, // up
		PeerName:      dev,
		PeerNamespace: netlink.NsFd(ns),
	}
	if err := m.w.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("make its link to the wire: %w", err)
	}
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer inside.Close()
	link, err := inside.LinkByName(dev)
	if err != nil {
		return err
	}
	own, err := netlink.ParseAddr(netip.PrefixFrom(addr, on.network.Bits()).String())
	if err != nil {
		return err
	}
	if err := inside.AddrAdd(link, own); err != nil {
		return fmt.Errorf("give %s its address %v: %w", dev, own, err)
	}
	if err := inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", dev, err)
	}
	if gateway := on.addr(1); addr != gateway {
		if err := inside.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("route to the gateway %v: %w", gateway, err)
		}
	}
	return nil
}

// port is a wire's end of the machine's link.
func (m *machine) port(on wire) string { return on.bridge + "-" + m.name }

func (m *machine) netns() string { return fmt.Sprintf("/proc/%d/ns/net", m.init.Process.Pid) }

// close ends the machine: the end of its first process is the end of every process in its namespaces.
func (m *machine) close() error {
	var err error
	if m.init != nil {
		err = m.init.Process.Kill()
		_ = m.init.Wait() // "signal: killed"
	}
	if m.room != nil {
		m.room.leave()
	}
	if m.group != nil {
		m.group.Close()
	}
	return err
}

// Name is the machine's name, and its host name.
func (m *Machine) Name() string { return m.name }

// Addr is its address on the wire.
func (m *Machine) Addr() netip.Addr { return m.addr }

// Dir is the machine's folder, for what a test wants to put there. Its files are seen by machine and test alike.
func (m *Machine) Dir() string { return m.dir }

// Netns is the path of its network namespace, for libraries that open one.
func (m *Machine) Netns() string { return m.netns() }

// CutOff takes the machine off the wire. It sees its cable unplugged; its address and routes stay as they are.
func (m *Machine) CutOff() { m.t.Helper(); m.plug(false) }

// Reconnect puts it back.
func (m *Machine) Reconnect() { m.t.Helper(); m.plug(true) }

func (m *Machine) plug(in bool) {
	m.t.Helper()
	link, err := m.w.link.LinkByName(m.port(m.wire))
	if err == nil && in {
		err = m.w.link.LinkSetUp(link)
	} else if err == nil {
		err = m.w.link.LinkSetDown(link)
	}
	if err != nil {
		m.t.Fatalf("%s: link to the wire: %v", m.name, err)
	}
}

// Renumber gives the machine another address on its wire in place of the one it has, as a DHCP server may: with the old
// one go its routes, with the new one comes the default route.
func (m *Machine) Renumber(addr netip.Addr) {
	m.t.Helper()
	bits := m.wire.network.Bits()
	m.Exec("ip", "addr", "del", netip.PrefixFrom(m.addr, bits).String(), "dev", "eth0")
	m.Exec("ip", "addr", "add", netip.PrefixFrom(addr, bits).String(), "dev", "eth0")
	m.Exec("ip", "route", "replace", "default", "via", m.wire.addr(1).String())
	m.addr = addr
}

// execLimit is how long a command may take that is not started in the background.
const execLimit = 2 * time.Minute

// Exec runs a command on the machine and returns its standard output, without the white space around it.
func (m *Machine) Exec(args ...string) string {
	m.t.Helper()
	out, err := m.TryExec(args...)
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	return out
}

// TryExec is Exec that returns an error, with all of the command's output, where the command fails or takes longer
// than two minutes.
func (m *Machine) TryExec(args ...string) (string, error) { return m.try(nil, args...) }
