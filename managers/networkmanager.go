package managers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/godbus/dbus/v5"
)

// NetworkManager's names on the bus (its D-Bus API reference).
const (
	nmName   = "org.freedesktop.NetworkManager"
	nmPath   = "/org/freedesktop/NetworkManager"
	nmDevice = nmName + ".Device"
)

// busAgain is how long until a bus that is not there, or has gone, is looked for
// again.
const busAgain = 30 * time.Second

// takeTime is how long it may take to make a new device its own: before, it can
// not be told to leave it.
const takeTime = 3 * time.Second

// NetworkManager has it leave our devices alone until ctx ends: those that are
// there, those that come, and all of them again when it is restarted. Where there
// is no system bus or no NetworkManager, it waits for them.
func NetworkManager(ctx context.Context, ours func(device string) bool, log *slog.Logger) {
	for {
		err := follow(ctx, ours, log)
		if ctx.Err() != nil {
			return
		}
		log.Debug("tell NetworkManager to leave devices alone", "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(busAgain):
		}
	}
}

func follow(ctx context.Context, ours func(string) bool, log *slog.Logger) error {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return err
	}
	defer bus.Close()
	signals := make(chan *dbus.Signal, 64)
	bus.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(nmName), dbus.WithMatchInterface(nmName), dbus.WithMatchMember("DeviceAdded")},
		{dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, nmName)},
	} {
		if err := bus.AddMatchSignalContext(ctx, match...); err != nil {
			return fmt.Errorf("listen to the system bus: %w", err)
		}
	}
	var late <-chan time.Time
	for {
		released, err := release(ctx, bus, ours)
		if len(released) > 0 {
			log.Info("NetworkManager is told to leave devices alone", "devices", released)
		}
		if err != nil && !absent(err) {
			log.Warn("tell NetworkManager to leave devices alone", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			late = nil
		case _, open := <-signals:
			if !open {
				return errors.New("the system bus has gone")
			}
			late = time.After(takeTime)
		}
	}
}

// release has it leave alone those of our devices that it manages; which it did.
func release(ctx context.Context, bus *dbus.Conn, ours func(string) bool) (released []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	call := func(path dbus.ObjectPath, method string, args ...any) *dbus.Call {
		return bus.Object(nmName, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	}
	const properties = "org.freedesktop.DBus.Properties."
	var devices []dbus.ObjectPath
	if err := call(nmPath, nmName+".GetDevices").Store(&devices); err != nil {
		return nil, fmt.Errorf("list its devices: %w", err)
	}
	var errs []error
	for _, d := range devices {
		var all map[string]dbus.Variant
		if err := call(d, properties+"GetAll", nmDevice).Store(&all); err != nil {
			continue // it has gone
		}
		name, _ := all["Interface"].Value().(string)
		managed, _ := all["Managed"].Value().(bool)
		if !managed || !ours(name) {
			continue
		}
		if err := call(d, properties+"Set", nmDevice, "Managed", dbus.MakeVariant(false)).Err; err != nil {
			errs = append(errs, fmt.Errorf("device %s: %w", name, err))
			continue
		}
		released = append(released, name)
	}
	return released, errors.Join(errs...)
}

// absent tells whether an error says that there is no NetworkManager.
func absent(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.ServiceUnknown" || e.Name == "org.freedesktop.DBus.Error.NameHasNoOwner")
}
