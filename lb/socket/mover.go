package socket

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"shoal/kernel/sockets"
)

// errStillLed says that sockets were led to tasks that are gone once more.
var errStillLed = errors.New("connected UDP sockets are led to tasks that have left: the BPF maps could not be brought up to date")

// move connects UDP sockets to their VIPs again: the programs lead them to a task in
// rotation, or leave them to the plane behind if there is none, which then serves them
// as long as they live. It returns those that could not be connected, for which there is
// nothing left but to close them, and those that were not found.
func (c *closer) move(ctx context.Context, leaving map[uint64]peer) (unmoved, unfound map[uint64]peer, err error) {
	if len(leaving) == 0 {
		return nil, nil, nil
	}
	p := c.plane
	ctx, end := context.WithTimeout(ctx, walkLimit)
	defer end()
	m := movement{opts: p.opts, led: p.led}
	err = m.run(ctx, leaving)
	if len(m.moved) > 0 {
		p.log.Info("connected UDP sockets were moved from tasks that left", "sockets", len(m.moved))
	}
	switch {
	case len(m.failed) > 0 && p.opts.Destroy == nil:
		err = errors.Join(err, m.why)
	case len(m.failed) > 0:
		p.log.Warn("connected UDP sockets of tasks that left could not be moved, and are closed", "sockets", len(m.failed), "error", m.why)
	}
	return m.failed, m.unfound, errors.Join(err, p.forget(m.elsewhere), p.stillLed(m.moved))
}

// led is where the programs led a socket; invalid: nowhere.
func (p *Plane) led(cookie uint64) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	var to peer
	if p.maps.byName["peers"].Lookup(cookie, &to) != nil {
		return netip.AddrPort{}
	}
	return to.task()
}

// stillLed tells whether sockets that were moved are led to a task that is gone.
func (p *Plane) stillLed(moved map[uint64]peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for cookie := range moved {
		var to peer
		if p.maps.byName["peers"].Lookup(cookie, &to) != nil {
			continue // it is left to the plane behind
		}
		if k, f := p.frontendOf(&to); !p.pending[k] { // else tasks have left since, and the end of the pass has the closer look again
			if ends, _ := ended(f, to.task(), now); ends {
				return errStillLed
			}
		}
	}
	return nil
}

// movement is what becomes of UDP sockets that are to be connected again.
type movement struct {
	opts Options
	led  func(cookie uint64) netip.AddrPort

	moved     map[uint64]peer
	elsewhere map[uint64]peer // are connected to what their process wanted since
	unfound   map[uint64]peer // are not there any more, or not yet
	failed    map[uint64]peer
	why       error // the first that failed did
	busy      error // why there are others that are to be looked at again
}

// run connects them. With an error it is not known what became of those that are in none
// of the results.
func (m *movement) run(ctx context.Context, leaving map[uint64]peer) error {
	m.moved, m.elsewhere, m.unfound, m.failed = map[uint64]peer{}, map[uint64]peer{}, map[uint64]peer{}, map[uint64]peer{}
	left := make(map[uint64]sockets.Peer, len(leaving))
	for cookie, to := range leaving {
		left[cookie] = sockets.Peer{Named: to.vip(), Real: to.task()}
	}
	for range closingTries {
		found, err := m.opts.Reconnect(ctx, left, m.led)
		for cookie, failed := range found {
			delete(left, cookie)
			m.sort(cookie, leaving[cookie], failed)
		}
		if err != nil {
			return err
		}
		if len(found) == 0 || len(left) == 0 {
			break
		}
	}
	for cookie := range left {
		m.unfound[cookie] = leaving[cookie]
	}
	return m.busy
}

// sort notes what became of a socket.
func (m *movement) sort(cookie uint64, to peer, failed error) {
	switch {
	case failed == nil:
		m.moved[cookie] = to
	case errors.Is(failed, sockets.ErrElsewhere):
		m.elsewhere[cookie] = to
	case errors.Is(failed, sockets.ErrBusy): // to close it would hang as well
		m.busy = failed
	default:
		if m.why == nil {
			m.why = failed
		}
		m.failed[cookie] = to
	}
}

// putBack connects the UDP sockets that were led by the maps in a folder to their VIPs,
// once no program of these leads any more, and closes those that cannot be connected. There is
// no more to do than to try: what fails is logged.
func putBack(opts Options, folder string) {
	if opts.Reconnect == nil {
		return
	}
	leaving, err := datagramPeers(folder)
	if err == nil && len(leaving) == 0 {
		return
	}
	ctx, end := context.WithTimeout(context.Background(), walkLimit)
	defer end()
	m := movement{opts: opts}
	if err == nil {
		err = m.run(ctx, leaving)
	}
	if len(m.failed) > 0 && opts.Destroy != nil {
		_, closing := destroyAll(ctx, opts, inStates(m.failed, sockets.Connected))
		err = errors.Join(err, closing)
	}
	if opts.Log == nil {
		return
	}
	if err = errors.Join(err, m.why); err != nil {
		opts.Log.Warn("connected UDP sockets that were led to a task could not all be connected to their VIPs", "error", err)
	}
	opts.Log.Info("connected UDP sockets are led no more", "connected to their VIPs", len(m.moved), "closed", len(m.failed))
}

// datagramPeers are the UDP sockets that the map peers in a folder has.
func datagramPeers(folder string) (map[uint64]peer, error) {
	const name = "peers"
	found := map[uint64]peer{}
	opened, err := ebpf.LoadPinnedMap(filepath.Join(folder, name), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil || specs()[name].Compatible(opened) != nil {
		return found, nil // there is none, or one of a version that is not known
	}
	defer opened.Close()
	err = list(&kernelMaps{byName: map[string]*ebpf.Map{name: opened}}, name, func(cookie uint64, to peer) {
		if to.Protocol == protoUDP {
			found[cookie] = to
		}
	})
	return found, err
}
