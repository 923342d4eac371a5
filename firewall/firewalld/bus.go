package firewalld

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// The names of firewalld on D-Bus (firewalld.dbus(5)).
const (
	name       = "org.fedoraproject.FirewallD1"
	path       = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	configPath = dbus.ObjectPath("/org/fedoraproject/FirewallD1/config")
)

// bus is firewalld, over D-Bus.
type bus struct{ c *dbus.Conn }

// open connects to the system's bus, and has what firewalld tells sent to the
// channel. The context, and openTime, bound that, but not the connection.
func open(ctx context.Context, told chan<- *dbus.Signal) (*bus, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	b, err := openFor(life, ctx, told)
	if !stop() && err == nil { // it ended just then
		b.close()
		err = ctx.Err()
	}
	if err != nil {
		end()
		if ctx.Err() != nil {
			return nil, fmt.Errorf("the system's D-Bus does not answer: %w", ctx.Err())
		}
		return nil, err
	}
	return b, nil
}

// openTime is the longest that D-Bus may take for its greetings.
const openTime = 5 * time.Second

// openFor is open, of a connection that ends with the first context.
func openFor(life, ctx context.Context, told chan<- *dbus.Signal) (*bus, error) {
	at := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if at == "" {
		at = "unix:path=/run/dbus/system_bus_socket" // the library's /var/run is not in every container
	}
	c, err := dbus.Connect(at, dbus.WithContext(life))
	if err != nil {
		return nil, fmt.Errorf("connect to the system's D-Bus: %w", err)
	}
	if told == nil {
		return &bus{c}, nil
	}
	err = errors.Join(
		c.AddMatchSignalContext(ctx, dbus.WithMatchInterface(name), dbus.WithMatchMember("Reloaded")),
		c.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)))
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("listen to firewalld on D-Bus: %w", err)
	}
	c.Signal(told)
	return &bus{c}, nil
}

func (b *bus) close() { b.c.Close() }

// running tells whether firewalld is there. A call to it would start it.
func (b *bus) running(ctx context.Context) (has bool, err error) {
	err = b.c.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&has)
	if err != nil {
		return false, fmt.Errorf("ask D-Bus for firewalld: %w", err)
	}
	return has, nil
}

// call is one to an interface of firewalld's, "zone.getZones".
func (b *bus) call(ctx context.Context, at dbus.ObjectPath, method string, result any, args ...any) error {
	call := b.c.Object(name, at).CallWithContext(ctx, name+"."+method, dbus.FlagNoAutoStart, args...)
	err := call.Err
	if err == nil && result != nil {
		err = call.Store(result)
	}
	if err != nil {
		return fmt.Errorf("firewalld: %s: %w", method, err)
	}
	return nil
}

// read reads what concerns the devices.
func (b *bus) read(ctx context.Context, devices []string) (s state, err error) {
	if err := b.call(ctx, path, "zone.getZones", &s.zones); err != nil {
		return s, err
	}
	if err := b.call(ctx, path, "policy.getPolicies", &s.policies); err != nil {
		return s, fmt.Errorf("%w; policies are there from version 0.9 on", err)
	}
	s.zoneOf = map[string]string{}
	for _, d := range devices {
		var z string
		if err := b.call(ctx, path, "zone.getZoneOfInterface", &z, d); err != nil {
			return s, err
		}
		if z != "" {
			s.zoneOf[d] = z
		}
	}
	return s, nil
}

// makeZone makes the zone as the engine would.
func (b *bus) makeZone(ctx context.Context) error {
	return unlessThere(b.call(ctx, configPath, "config.addZone2", nil, zone, map[string]dbus.Variant{
		"version":     dbus.MakeVariant("1.0"),
		"description": dbus.MakeVariant("zone for docker bridge network interfaces"),
		"target":      dbus.MakeVariant("ACCEPT"),
	}))
}

// makePolicy makes the policy by which what other zones send to it passes.
func (b *bus) makePolicy(ctx context.Context) error {
	return unlessThere(b.call(ctx, configPath, "config.addPolicy", nil, policy, map[string]dbus.Variant{
		"version":       dbus.MakeVariant("1.0"),
		"description":   dbus.MakeVariant("what is sent to containers: shoal and the engine say what may pass"),
		"ingress_zones": dbus.MakeVariant([]string{"ANY"}),
		"egress_zones":  dbus.MakeVariant([]string{zone}),
		"target":        dbus.MakeVariant("ACCEPT"),
	}))
}

// removePolicy removes it, and tells whether it was there.
func (b *bus) removePolicy(ctx context.Context) (was bool, err error) {
	var at dbus.ObjectPath
	if err := b.call(ctx, configPath, "config.getPolicyByName", &at, policy); err != nil {
		if refused(err, "INVALID_POLICY") {
			return false, nil
		}
		return false, err
	}
	return true, b.call(ctx, at, "config.policy.remove", nil)
}

func (b *bus) reload(ctx context.Context) error { return b.call(ctx, path, "reload", nil) }

func (b *bus) add(ctx context.Context, device string) error {
	err := b.call(ctx, path, "zone.addInterface", nil, zone, device)
	if refused(err, "ALREADY_ENABLED") || refused(err, "ZONE_ALREADY_SET") {
		return nil
	}
	return err
}

func (b *bus) remove(ctx context.Context, device string) error {
	err := b.call(ctx, path, "zone.removeInterface", nil, zone, device)
	if refused(err, "UNKNOWN_INTERFACE") || refused(err, "NOT_ENABLED") || refused(err, "ZONE_CONFLICT") || refused(err, "INVALID_ZONE") {
		return nil
	}
	return err
}

func unlessThere(err error) error {
	if refused(err, "NAME_CONFLICT") {
		return nil
	}
	return err
}

// refused tells whether firewalld refused a call for that reason: it is the
// first word of the error.
func refused(err error, why string) bool {
	refusal := new(dbus.Error)
	return errors.As(err, refusal) && strings.HasPrefix(refusal.Error(), why)
}
