package vm

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// BootLimit is how long a machine may take from its start until ssh answers. It takes a minute or two on an idle processor.
const BootLimit = 12 * time.Minute

// Config says which machine to start.
type Config struct {
	Name   string // its host name
	Number int    // of its address on the wire, from 2 to 254
	Image  *Image
	Wire   *Wire
	Dir    string // for its disk and its console's log; made where it is not
	Give   string // a folder, which the machine finds at [Given]; "": nothing
	Memory int    // MiB; 0: 2048
	CPUs   int    // 0: 2
	Accel  string // QEMU's accelerator; "": tcg, which needs nothing
}

// Machine is a virtual machine that runs.
type Machine struct {
	name     string
	addr     netip.Addr
	image    *Image
	identity *identity
	dir      string
	ssh      string // the address at which its ssh server is reached

	qemu  *exec.Cmd
	ended chan struct{}
	err   error // valid once ended is closed

	mu   sync.Mutex
	conn *ssh.Client
}

// Start starts a machine. It returns before that has booted: see [Machine.Await].
func Start(c Config) (_ *Machine, err error) {
	m := &Machine{name: c.Name, addr: address(c.Number), image: c.Image, dir: c.Dir, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = fmt.Errorf("start the machine %s: %w", c.Name, err)
		}
	}()
	if m.identity, err = newIdentity(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	overlay := filepath.Join(c.Dir, "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", c.Image.disk(), overlay).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("make its disk (`make deps-hosts` installs what is missing): %w\n%s", err, out)
	}
	if c.Give != "" {
		if err := m.give(c.Give); err != nil {
			return nil, err
		}
	}
	if m.ssh, err = freePort(); err != nil {
		return nil, err
	}
	tap, err := c.Wire.tap(c.Name)
	if err != nil {
		return nil, err
	}
	defer tap.Close()
	m.qemu = exec.Command("qemu-system-x86_64", m.arguments(c, overlay)...)
	m.qemu.ExtraFiles = []*os.File{tap}
	// A session of its own: signals of the terminal are for the test, which ends its machines itself, and does not leave
	// them behind if it is killed.
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(c.Dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m.qemu.Stdout, m.qemu.Stderr = log, log
	began := make(chan error)
	go func() {
		// Its death is to follow that of this process, not that of whichever thread: so that thread starts it that stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := m.qemu.Start()
		began <- err
		if err == nil {
			m.err = m.qemu.Wait()
			close(m.ended)
		}
	}()
	return m, <-began
}

// arguments are QEMU's. The tap is its file descriptor 3.
func (m *Machine) arguments(c Config, overlay string) []string {
	accel, cpu := "tcg,thread=multi,tb-size=512", "max"
	if c.Accel != "" && c.Accel != "tcg" {
		accel, cpu = c.Accel, "host"
	}
	args := []string{
		"-accel", accel, "-cpu", cpu, "-smp", fmt.Sprint(cmp.Or(c.CPUs, 2)), "-m", fmt.Sprint(cmp.Or(c.Memory, 2048)),
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "file:" + m.consoleLog(),
		"-kernel", c.Image.kernel(), "-initrd", c.Image.initrd(),
		"-append", strings.Join([]string{
			"root=/dev/vda", "rw", "console=ttyS0", "net.ifnames=0", "panic=-1",
			"systemd.hostname=" + c.Name, "systemd.show_status=no",
			withFile("/root/.ssh/authorized_keys", m.identity.authorized),
			withFile("/etc/systemd/network/20-wire.network", []byte(m.wireNetwork())),
		}, " "),
		"-drive", "file=" + overlay + ",if=virtio,format=qcow2,cache=unsafe",
		"-netdev", "user,id=ssh,restrict=on,hostfwd=tcp:" + m.ssh + "-10.0.2.15:22",
		"-device", "virtio-net-pci,netdev=ssh,mac=52:54:00:00:02:15,romfile=",
		"-netdev", "tap,id=wire,fd=3",
		"-device", fmt.Sprintf("virtio-net-pci,netdev=wire,mac=52:54:00:77:00:%02x,romfile=", c.Number),
		"-device", "virtio-rng-pci",
	}
	if c.Give != "" {
		args = append(args, "-drive", "file="+m.given()+",if=virtio,format=raw,readonly=on")
	}
	return args
}

// withFile has a machine find a small file, in words of its kernel's command line: see [finish].
func withFile(path string, content []byte) string {
	return "lab.file=" + path + ":" + base64.StdEncoding.EncodeToString(content)
}

// Given is where a machine finds what it was given, once it has mounted that.
const Given = "/dev/vdb"

func (m *Machine) given() string { return filepath.Join(m.dir, "given.img") }

// give makes a disk of a folder. What comes that way costs the machine next to nothing; by ssh it has to decipher it.
func (m *Machine) give(dir string) error {
	var size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	kilobytes := fmt.Sprintf("%dk", size*5/4>>10+8<<10)
	if out, err := exec.Command("mke2fs", "-q", "-F", "-t", "ext4", "-d", dir, m.given(), kilobytes).CombinedOutput(); err != nil {
		return fmt.Errorf("make a disk of %s: %w\n%s", dir, err, out)
	}
	return nil
}

// wireNetwork is the systemd.network(5) of the card on the wire.
func (m *Machine) wireNetwork() string {
	return fmt.Sprintf("[Match]\nName=eth1\n[Network]\nAddress=%v/%d\nGateway=%v\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
		m.addr, Network.Bits(), address(1))
}

// freePort is a loopback address that nobody listens at.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// Await waits until the machine has booted, so far that it can be used.
func (m *Machine) Await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, BootLimit)
	defer cancel()
	if err := m.awaitSSH(ctx); err != nil {
		return fmt.Errorf("%s does not boot: %w\nthe end of its console (%s):\n%s%s", m.name, err, m.consoleLog(),
			m.Console(), tail(filepath.Join(m.dir, "qemu.log")))
	}
	return nil
}

// Reboot restarts the machine, as its administrator would, and waits until it is there again.
func (m *Machine) Reboot(ctx context.Context) error {
	const id = "cat /proc/sys/kernel/random/boot_id"
	before, err := m.Run(ctx, id)
	if err != nil {
		return err
	}
	// The connection may end before the command does.
	_, _ = m.Run(ctx, "systemctl reboot")
	ctx, cancel := context.WithTimeout(ctx, BootLimit)
	defer cancel()
	for {
		if err := m.Await(ctx); err != nil {
			return err
		}
		if now, err := m.Run(ctx, id); err == nil && now != before {
			return nil
		}
		select { // it is still going down
		case <-ctx.Done():
			return fmt.Errorf("%s does not restart: %w", m.name, ctx.Err())
		case <-time.After(time.Second):
		}
	}
}

// Name is its host name.
func (m *Machine) Name() string { return m.name }

// Addr is its address on the wire.
func (m *Machine) Addr() netip.Addr { return m.addr }

func (m *Machine) consoleLog() string { return filepath.Join(m.dir, "console.log") }

// Console is the end of what it wrote to its serial console.
func (m *Machine) Console() string { return tail(m.consoleLog()) }

// Put writes a file of the machine.
func (m *Machine) Put(ctx context.Context, path string, mode os.FileMode, content io.Reader) error {
	_, err := m.Feed(ctx, fmt.Sprintf("mkdir -p %s && cat >%s.new && chmod %o %s.new && mv %s.new %s",
		filepath.Dir(path), path, mode.Perm(), path, path, path), content)
	return err
}

// Close ends the machine, as a power cut would, and removes its disk. Its logs stay.
func (m *Machine) Close() error {
	m.hangUp()
	err := m.qemu.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-m.ended
	return errors.Join(err, os.Remove(filepath.Join(m.dir, "disk.qcow2")), os.RemoveAll(m.given()))
}
