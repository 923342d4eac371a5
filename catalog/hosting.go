package catalog

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// settlePause is between attempts at what fails while the cluster settles: a
// voter that was just added has to be connected to all others for a few
// seconds before etcd lets the next change happen.
const settlePause = 250 * time.Millisecond

// change makes a change of this host's role, one at a time.
func (c *Catalog) change(ctx context.Context, what string, f func(ctx context.Context) error) error {
	select {
	case c.hosting <- struct{}{}:
		defer func() { <-c.hosting }()
	case <-ctx.Done():
		return fmt.Errorf("%s: another change of this host's role is under way: %w", what, ctx.Err())
	case <-c.run.Done():
		return fmt.Errorf("%s: the catalog is closed", what)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.run, cancel)()
	if err := f(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// role is the host's, and its etcd, if one runs. Only [Catalog.change] changes
// them.
func (c *Catalog) role() (Role, *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.place.Role, c.server
}

// use makes s this host's etcd, or nil: none. One that is apart is not asked
// anything yet, or any more.
func (c *Catalog) use(s *server, apart bool, change func(*place)) error {
	c.mu.Lock()
	c.server = s
	if s != nil {
		s.apart = apart
	}
	c.mu.Unlock()
	return c.rewire(change)
}

var errExternal = errors.New("the store is an etcd of yours, which shoal does not run; change its members by its own means")

// Serve opens the embedded etcd of a lone host to the others of the cluster, for
// good: it starts again on [ClientPort] and [PeerPort]. Changes of the store
// wait for it meanwhile, a second or two. On a host that serves already it does
// nothing.
func (c *Catalog) Serve(ctx context.Context) error {
	return c.change(ctx, "open the store to other hosts", c.serve)
}

func (c *Catalog) serve(ctx context.Context) error {
	r, s := c.role()
	switch {
	case r == RoleServer:
		return nil
	case r == RoleClient:
		return errors.New("this host uses the stores of others; run: shoal server promote " + c.o.Self.Name)
	case r == RoleExternal:
		return errExternal
	}
	p := c.o.Peers
	if err := p.check(); err != nil {
		return err
	}
	peer := p.peerURL()
	rctx, cancel := context.WithTimeout(ctx, requestTimeout)
	_, err := c.client.MemberUpdate(rctx, uint64(s.etcd.Server.MemberID()), []string{peer.String()})
	cancel()
	if err != nil {
		return err
	}
	if err := c.use(nil, false, func(pl *place) { pl.Role, pl.Addr = RoleServer, p.Addr }); err != nil {
		return errors.Join(err, c.use(s, false, func(pl *place) { pl.Role = RoleAlone }))
	}
	c.end(s)
	s, err = c.startServer(RoleServer, nil)
	if err != nil {
		// As it was; the address its peers would use is of no use, and no harm.
		again, startErr := c.startServer(RoleAlone, nil)
		if startErr == nil {
			c.guard(again)
		}
		return errors.Join(err, startErr, c.use(again, false, func(pl *place) { pl.Role = RoleAlone }))
	}
	c.guard(s)
	if err := c.use(s, false, nil); err != nil {
		return err
	}
	return s.ready(ctx)
}

func (s *server) stopped() bool {
	select {
	case <-s.etcd.Server.StopNotify():
		return true
	default:
		return s.closing.Load()
	}
}

// ready waits until an etcd has a leader and answers.
func (s *server) ready(ctx context.Context) error {
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case <-s.etcd.Server.StopNotify():
		return errors.New("the embedded etcd stopped; see the log")
	case <-ctx.Done():
		return fmt.Errorf("the embedded etcd finds no leader: %w", ctx.Err())
	}
}

// guard starts an etcd again that stopped by itself; or, if it stopped because
// another host removed its member, makes this host a client. It also tells the
// other members when this one's address is a new one.
func (c *Catalog) guard(s *server) {
	c.done.Go(func() {
		if c.o.Peers != nil && !c.announce(s) {
			return
		}
		select {
		case <-c.run.Done():
			return
		case <-s.etcd.Server.StopNotify():
		}
		if s.closing.Load() {
			return
		}
		for retry := (retrier{}); c.run.Err() == nil; retry.wait(c.run) {
			err := c.change(c.run, "start the embedded etcd again", func(ctx context.Context) error { return c.restart(ctx, s) })
			if err == nil {
				return
			}
			c.log.Error("the store of this host is down; the last state stays in use", "err", err)
		}
	})
}

func (c *Catalog) restart(ctx context.Context, old *server) error {
	r, s := c.role()
	if r == RoleClient || s != old && s != nil {
		return nil // Demote was first
	}
	if s == old {
		c.log.Error("the embedded etcd stopped")
	}
	if err := c.use(nil, false, nil); err != nil {
		return err
	}
	old.close()
	if r == RoleServer {
		members, err := c.members(ctx)
		id := uint64(old.etcd.Server.MemberID())
		if err == nil && !slices.ContainsFunc(members, func(m *member) bool { return m.ID == id }) {
			c.log.Warn("another host took this one's vote; the store is asked there from now on")
			return c.leave(old)
		}
	}
	s, err := c.startServer(r, nil)
	if err != nil {
		return err
	}
	c.guard(s)
	return c.use(s, false, nil)
}

// announce tells etcd's members this one's address, if it is a new one. It
// returns false when there is no more need to: the catalog is closed.
func (c *Catalog) announce(s *server) bool {
	p := c.o.Peers
	u := p.peerURL()
	for retry := (retrier{}); c.run.Err() == nil; retry.wait(c.run) {
		c.mu.Lock()
		known := c.place.Role != RoleServer || c.place.Addr == p.Addr
		c.mu.Unlock()
		if known || s.stopped() {
			return true
		}
		ctx, cancel := context.WithTimeout(c.run, requestTimeout)
		_, err := c.client.MemberUpdate(ctx, uint64(s.etcd.Server.MemberID()), []string{u.String()})
		cancel()
		if err == nil {
			err = c.rewire(func(pl *place) { pl.Addr = p.Addr })
		}
		if err != nil {
			c.log.Warn("the other servers of the store do not know this host's new address yet", "addr", p.Addr, "err", err)
		}
	}
	return false
}
