package firewalld

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"shoal/internal/statefile"
)

// callTime is the longest that firewalld may take for all that it is told once;
// its reload is much of that.
const callTime = 30 * time.Second

// reloadAgain is the least time from one reload that is asked for to the next.
const reloadAgain = 10 * time.Minute

// Keeper keeps firewalld told.
type Keeper struct {
	file string
	log  *slog.Logger

	mu       sync.Mutex
	bus      *bus      // nil: not connected
	reloaded time.Time // when it was last made to reload
	watchers []chan struct{}
}

// New makes a Keeper that remembers in the folder what it has told. It does
// nothing yet.
func New(stateDir string, log *slog.Logger) *Keeper {
	return &Keeper{file: stateFile(stateDir), log: log}
}

func stateFile(dir string) string { return filepath.Join(dir, "firewalld.json") }

// kept are the devices that were put into the zone.
type kept struct {
	Devices []string `json:"devices"`
	Policy  bool     `json:"policy"` // was made
}

// Changed is a new channel that is signalled when firewalld has started or
// reloaded. An engine's rules of iptables, and ours, may be gone then.
func (k *Keeper) Changed() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch := make(chan struct{}, 1)
	k.watchers = append(k.watchers, ch)
	return ch
}

func (k *Keeper) signal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, ch := range k.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// connect connects to D-Bus if it is there and that is not done yet. Nobody else waits
// while it does not answer.
func (k *Keeper) connect(ctx context.Context) (*bus, error) {
	k.mu.Lock()
	b := k.bus
	k.mu.Unlock()
	if b != nil && b.c.Connected() {
		return b, nil
	}
	told := make(chan *dbus.Signal, 16)
	b, err := open(ctx, told)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.bus = b
	k.mu.Unlock()
	go func() { // until the connection ends, which closes the channel
		for range told {
			k.signal()
		}
	}()
	return b, nil
}

// Close ends the connection; firewalld's configuration stays.
func (k *Keeper) Close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bus != nil {
		k.bus.close()
		k.bus = nil
	}
}

// Keep has the devices in the zone, if firewalld runs. One goroutine at a time
// may call it.
func (k *Keeper) Keep(ctx context.Context, devices []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	b, err := k.connect(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if err != nil {
		return nil // without D-Bus there is no firewalld, or none that can be reached from here
	}
	if runs, err := b.running(ctx); err != nil || !runs {
		return err
	}
	have, err := b.read(ctx, devices)
	if err != nil {
		return err
	}
	p := planOf(have, devices)
	if p.empty() {
		return nil
	}
	if err := k.remember(p); err != nil {
		return err
	}
	if p.makeZone {
		if err := b.makeZone(ctx); err != nil {
			return err
		}
	}
	if p.makePolicy {
		if err := b.makePolicy(ctx); err != nil {
			return err
		}
	}
	if p.reload() {
		// A reload ends what others have in the runtime configuration alone.
		if since := time.Since(k.reloaded); since < reloadAgain {
			return fmt.Errorf("firewalld was given the policy %s and the zone %s and has reloaded, but does not have them: see its log, and run firewall-cmd --check-config", policy, zone)
		}
		k.reloaded = time.Now()
		k.log.Info("firewalld reloads: it was given what lets containers be reached", "zone", p.makeZone, "policy", p.makePolicy)
		if err := b.reload(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, d := range p.add {
		errs = append(errs, b.add(ctx, d))
	}
	if len(p.add) > 0 {
		k.log.Info("devices are in firewalld's zone of containers", "zone", zone, "devices", p.add)
	}
	return errors.Join(errs...)
}

// remember keeps what is about to be told for Down.
func (k *Keeper) remember(p plan) error {
	var was kept
	if _, err := statefile.Load(k.file, &was); err != nil {
		return err
	}
	is := kept{slices.Clone(was.Devices), was.Policy || p.makePolicy}
	is.Devices = append(is.Devices, p.add...)
	slices.Sort(is.Devices)
	is.Devices = slices.Compact(is.Devices)
	if is.Policy == was.Policy && slices.Equal(is.Devices, was.Devices) {
		return nil
	}
	return statefile.Save(k.file, is)
}

// Down takes back what any Keeper with that folder has told firewalld. Where it
// does not run, its permanent configuration stays, and the error says so.
func Down(ctx context.Context, stateDir string) error {
	var was kept
	if found, err := statefile.Load(stateFile(stateDir), &was); !found || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	runs, err := false, error(nil)
	b, err := open(ctx, nil)
	if err == nil {
		defer b.close()
		runs, err = b.running(ctx)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return err // whether it runs is not known
	}
	if !runs {
		if was.Policy {
			gone := fmt.Errorf("firewalld does not run, so its policy %s stays: remove it by firewall-offline-cmd --delete-policy=%[1]s", policy)
			return errors.Join(gone, err)
		}
		return os.Remove(stateFile(stateDir)) // devices are in zones only while it runs
	}
	var errs []error
	for _, d := range was.Devices {
		errs = append(errs, b.remove(ctx, d))
	}
	if was.Policy {
		removed, err := b.removePolicy(ctx)
		errs = append(errs, err)
		if removed && err == nil {
			errs = append(errs, b.reload(ctx))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.Remove(stateFile(stateDir))
}
