package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// hook is a place where the kernel calls a program of ours.
type hook struct {
	name   string // of the program's pin
	kind   ebpf.ProgramType
	attach ebpf.AttachType
	write  func(*code, family)
	family family
	udp    bool // only UDP needs it
}

// hooks are in the order in which programs are attached: a socket is led only
// once all that is to know of it is there.
var hooks = []hook{
	{"release", ebpf.CGroupSock, ebpf.AttachCgroupInetSockRelease, (*code).released, family{}, false},
	{"peername4", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet4GetPeername, (*code).named, family{}, false},
	{"peername6", ebpf.CGroupSockAddr, ebpf.AttachCgroupInet6GetPeername, (*code).named, family{ipv6: true}, false},
	{"recvmsg4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Recvmsg, (*code).named, family{}, true},
	{"recvmsg6", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Recvmsg, (*code).named, family{ipv6: true}, true},
	{"sendmsg4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg, (*code).sent, family{}, true},
	{"connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, (*code).connect, family{}, false},
	{"connect6", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect, (*code).connect, family{ipv6: true}, false},
}

// spec is the program, as it is to be loaded. None of the helpers is for programs
// under the GPL only.
func (h *hook) spec(m *kernelMaps) (*ebpf.ProgramSpec, error) {
	c := &code{maps: m}
	h.write(c, h.family)
	// This puts distances in the place of labels, without which the program's tag
	// would be another than the kernel's.
	if err := c.ins.Marshal(io.Discard, byteOrder()); err != nil {
		return nil, fmt.Errorf("assemble the BPF program %s: %w", h.name, err)
	}
	return &ebpf.ProgramSpec{Name: "shoal_" + h.name, Type: h.kind, AttachType: h.attach, Instructions: c.ins}, nil
}

// byteOrder is the machine's, as one of the two that there are.
func byteOrder() binary.ByteOrder {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return binary.LittleEndian
	}
	return binary.BigEndian
}

// load has the kernel verify the program.
func (h *hook) load(m *kernelMaps) (*ebpf.Program, error) {
	spec, err := h.spec(m)
	if err != nil {
		return nil, err
	}
	kernel.Wrote("bpf", 1)
	p, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, fmt.Errorf("load the BPF program %s: %w", h.name, err)
	}
	return p, nil
}

// programs are those that are attached to a cgroup and pinned.
type programs struct {
	cgroup string
	number uint64 // of the cgroup, as links have it
	pins   string
	udp    bool // is led
	maps   *kernelMaps
}

// wants tells whether a hook is to have its program. Datagrams that nobody leads
// are not to pay for it.
func (p *programs) wants(h *hook) bool { return p.udp || !h.udp }

// ensure has every program attached, pinned, and as this version has it, and
// tells whether any was not. Those that are as they should be are left alone.
func (p *programs) ensure() (changed bool, err error) {
	for i := range hooks {
		did, err := p.ensureOne(&hooks[i])
		if changed = changed || did; err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func (p *programs) ensureOne(h *hook) (changed bool, err error) {
	if !p.wants(h) {
		return false, dropPinned(p.pin(h))
	}
	l, err := p.adopt(h)
	if err != nil {
		return false, err
	}
	if l != nil {
		defer l.Close()
		current, err := p.current(h, l)
		if current || err != nil {
			return false, err
		}
	}
	prog, err := h.load(p.maps)
	if err != nil {
		return true, err
	}
	defer prog.Close() // the link has it
	kernel.Wrote("bpf", 1)
	if l != nil {
		if err := l.Update(prog); err != nil {
			return true, fmt.Errorf("replace the BPF program %s: %w", h.name, err)
		}
		return true, nil
	}
	l, err = link.AttachCgroup(link.CgroupOptions{Path: p.cgroup, Attach: h.attach, Program: prog})
	if err != nil {
		return true, fmt.Errorf("attach the BPF program %s to the cgroup %s: %w", h.name, p.cgroup, err)
	}
	defer l.Close() // the pin has it
	if err := l.Pin(p.pin(h)); err != nil {
		return true, errors.Join(fmt.Errorf("pin the BPF program %s: %w", h.name, err), l.Detach())
	}
	return true, nil
}

func (p *programs) pin(h *hook) string { return filepath.Join(p.pins, h.name) }

// adopt opens the pinned link of a hook; nil: there is none that is attached to
// this cgroup.
func (p *programs) adopt(h *hook) (link.Link, error) {
	l, info, err := openLink(p.pin(h))
	if l == nil || err != nil {
		return nil, err
	}
	if c := info.Cgroup(); c != nil && c.CgroupId == p.number {
		return l, nil
	}
	return nil, drop(l, p.pin(h))
}

// current tells whether a link has the program that this version of shoal has,
// with the maps that are used now.
func (p *programs) current(h *hook, l link.Link) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("look at the BPF link %s: %w", h.name, err)
	}
	prog, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return false, fmt.Errorf("look at the BPF program %s: %w", h.name, err)
	}
	defer prog.Close()
	pi, err := prog.Info()
	if err != nil {
		return false, fmt.Errorf("look at the BPF program %s: %w", h.name, err)
	}
	spec, err := h.spec(p.maps)
	if err != nil {
		return false, err
	}
	if spec.Compatible(pi) != nil {
		return false, nil
	}
	ids, ok := pi.MapIDs()
	return ok && p.maps.haveAll(ids), nil
}

// detach takes the programs away, whoever attached them: first those that lead.
func detach(pins string) error {
	var errs []error
	for _, h := range slices.Backward(hooks) {
		errs = append(errs, dropPinned(filepath.Join(pins, h.name)))
	}
	return errors.Join(errs...)
}

// detachLeading takes away those that lead, and leaves those by which a socket that was led
// seems to be where its client wanted it.
func detachLeading(pins string) error {
	return errors.Join(dropPinned(filepath.Join(pins, "connect6")), dropPinned(filepath.Join(pins, "connect4")))
}

// dropPinned ends a pinned link, if there is one.
func dropPinned(pin string) error {
	l, _, err := openLink(pin)
	if l == nil || err != nil {
		return err
	}
	return drop(l, pin)
}

// openLink opens a pinned link; nil: there is none.
func openLink(pin string) (link.Link, *link.Info, error) {
	if _, err := os.Lstat(pin); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // where bpf() is forbidden, too
	}
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("open the BPF link %s: %w", pin, err)
	}
	info, err := l.Info()
	if err != nil {
		l.Close()
		return nil, nil, fmt.Errorf("look at the BPF link %s: %w", pin, err)
	}
	return l, info, nil
}

// drop ends a link and its pin. A link whose cgroup is gone has ended already.
func drop(l link.Link, pin string) error {
	defer l.Close()
	kernel.Wrote("bpf", 1)
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach the BPF link %s: %w", pin, err)
	}
	if err := os.Remove(pin); err != nil {
		return fmt.Errorf("unpin the BPF link: %w", err)
	}
	return nil
}
