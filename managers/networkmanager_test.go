package managers

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/prop"

	"shoal/lab/wait"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><listen>unix:path=%s</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy></busconfig>`

// bus is a real D-Bus daemon, on which this process is NetworkManager, as far as it is asked: version 1.42 itself was tried
// by hand.
type bus struct {
	t       *testing.T
	conn    *dbus.Conn
	mu      sync.Mutex
	devices []dbus.ObjectPath
	managed map[string]*prop.Properties
}

func startBus(t *testing.T) *bus {
	t.Helper()
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, socket), 0o644); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatalf("%v: install the package dbus", err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the bus does not start: %v", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	return &bus{t: t, managed: map[string]*prop.Properties{}}
}

// manage starts NetworkManager.
func (b *bus) manage() {
	b.t.Helper()
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	b.conn = conn
	if err := conn.Export(b, nmPath, nmName); err != nil {
		b.t.Fatal(err)
	}
	if _, err := conn.RequestName(nmName, dbus.NameFlagDoNotQueue); err != nil {
		b.t.Fatal(err)
	}
}

// GetDevices is that of the API.
func (b *bus) GetDevices() ([]dbus.ObjectPath, *dbus.Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.devices, nil
}

// add has a device that it manages.
func (b *bus) add(name string) {
	b.t.Helper()
	path := dbus.ObjectPath(fmt.Sprintf("%s/Devices/%d", nmPath, len(b.devices)+1))
	ps, err := prop.Export(b.conn, path, prop.Map{nmDevice: {
		"Interface": {Value: name}, "Managed": {Value: true, Writable: true},
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.devices = append(b.devices, path)
	b.managed[name] = ps
	b.mu.Unlock()
	if err := b.conn.Emit(nmPath, nmName+".DeviceAdded", path); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bus) manages(name string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.managed[name].GetMust(nmDevice, "Managed").(bool)
}

func TestNetworkManagerLeavesOurDevicesAlone(t *testing.T) {
	b := startBus(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		NetworkManager(ctx, func(d string) bool { return strings.HasPrefix(d, "shoal") }, slog.New(slog.DiscardHandler))
	}()
	left := func(name string) {
		t.Helper()
		wait.For(t, 10*time.Second, name+" is not managed", func() bool { return !b.manages(name) })
	}
	b.manage() // later than shoal
	b.add("eth0")
	b.add("shoal0")
	left("shoal0")
	b.add("shoal.vxlan") // it comes later
	left("shoal.vxlan")
	if !b.manages("eth0") {
		t.Error("eth0 is not managed any more")
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("it does not end")
	}
}
