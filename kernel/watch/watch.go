// Package watch tells when somebody changes what shoal has in the kernel's
// routing: its devices, addresses, routes and routing rules. Others subscribe to
// what else they keep in the kernel.
//
// In: the kernel's notifications (rtnetlink(7), multicast groups), of which those
// that concern nothing of shoal's are dropped, those of containers that come and
// go above all. Out: a signal; what is wrong is for a full pass of the parts to
// find out. It owns nothing in the kernel.
package watch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Interest is what the notifications that count are about.
type Interest struct {
	Devices   func(name string) bool // a device comes, goes, or is set up or down
	Addresses bool                   // an IPv4 address goes
	// Protocols are those of routes: one that has one of these goes, or may have gone. The kernel takes routes of a device that is set
	// down, or whose address goes, and tells nobody; what brings their way back is told: a device that is set up, unless it is a
	// port of a bridge, as those of containers are, or a new IPv4 address.
	Protocols  []uint8
	Priorities []uint32 // a routing rule that has one of these goes
}

// quietTime is how long notifications are gathered before the signal: whoever
// changes something tends to change more. Of routing little is gathered, and not
// for long: packets go astray meanwhile.
const (
	quietTime     = 50 * time.Millisecond
	settleRouting = 10 * time.Millisecond
	latestRouting = 40 * time.Millisecond
)

// Start watches the network namespace of the calling thread until ctx ends. The
// channel has room for one signal: several that nobody has taken are one.
func Start(ctx context.Context, in Interest) (<-chan struct{}, error) {
	changed, err := subscribe(ctx, in.concerns, settleRouting, latestRouting, unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE)
	if err != nil {
		return nil, fmt.Errorf("watch the kernel's routing: %w", err)
	}
	return changed, nil
}

// Subscribe signals those notifications of some multicast groups of a netlink
// protocol that concern the caller. It is as [Start] in all else.
func Subscribe(ctx context.Context, concerns func(kind uint16, data []byte) bool, protocol int, groups ...uint) (<-chan struct{}, error) {
	return subscribe(ctx, concerns, quietTime, time.Hour, protocol, groups...)
}

func subscribe(ctx context.Context, concerns func(kind uint16, data []byte) bool, quietTime, latest time.Duration, protocol int, groups ...uint) (<-chan struct{}, error) {
	s, err := nl.Subscribe(protocol, groups...)
	if err != nil {
		return nil, err
	}
	changed := make(chan struct{}, 1)
	seen := make(chan struct{}, 1)
	context.AfterFunc(ctx, s.Close)
	go func() {
		defer close(seen)
		for {
			msgs, _, err := s.Receive()
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, unix.ENOBUFS): // some were lost: what they said is not known
				signal(seen)
				continue
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
				continue
			case err != nil:
				return
			}
			for _, m := range msgs {
				if concerns(m.Header.Type, m.Data) {
					signal(seen)
				}
			}
		}
	}()
	go gather(seen, changed, quietTime, latest)
	return changed, nil
}

// gather passes a signal on when nothing more has come for a moment, or much
// has.
func gather(seen <-chan struct{}, changed chan<- struct{}, quietTime, latest time.Duration) {
	for range seen {
		late := time.After(latest)
		for quiet := time.After(quietTime); quiet != nil; {
			select {
			case _, open := <-seen:
				if !open {
					return
				}
			case <-quiet:
				quiet = nil
			case <-late:
				quiet = nil
			}
		}
		signal(changed)
	}
}

func signal(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Lengths of the fixed parts of messages (include/uapi/linux/if_link.h,
// rtnetlink.h, fib_rules.h).
const (
	ifInfoLen  = 16
	rtMsgLen   = 12
	fibRuleLen = 12

	ifInfoFlags  = 8  // offset of ifi_flags
	ifInfoChange = 12 // and of ifi_change, which of them changed

	rtMsgProtocol = 5 // offset of rtm_protocol

	fraPriority = 6 // FRA_PRIORITY
)

// concerns tells whether a notification is about what counts.
func (in *Interest) concerns(kind uint16, data []byte) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		name, ok := Attribute(data, ifInfoLen, unix.IFLA_IFNAME)
		return ok && in.Devices != nil && in.Devices(strings.TrimRight(string(name), "\x00")) ||
			kind == unix.RTM_NEWLINK && len(in.Protocols) > 0 && setUp(data)
	case unix.RTM_DELADDR:
		return in.Addresses
	case unix.RTM_NEWADDR:
		return len(in.Protocols) > 0
	case unix.RTM_DELROUTE:
		if len(data) < rtMsgLen {
			return false
		}
		for _, p := range in.Protocols {
			if data[rtMsgProtocol] == p {
				return true
			}
		}
	case unix.RTM_DELRULE:
		v, ok := Attribute(data, fibRuleLen, fraPriority)
		if !ok || len(v) < 4 {
			return false
		}
		for _, p := range in.Priorities {
			if binary.NativeEndian.Uint32(v) == p {
				return true
			}
		}
	}
	return false
}

// setUp tells whether a message says that a device was set up, which is no port of a bridge.
func setUp(data []byte) bool {
	if len(data) < ifInfoLen || binary.NativeEndian.Uint32(data[ifInfoFlags:])&binary.NativeEndian.Uint32(data[ifInfoChange:])&unix.IFF_UP == 0 {
		return false
	}
	_, port := Attribute(data, ifInfoLen, unix.IFLA_MASTER)
	return !port
}

// Attribute finds one among those that follow a message's fixed part.
func Attribute(data []byte, fixed int, kind uint16) ([]byte, bool) {
	if len(data) < fixed {
		return nil, false
	}
	attrs, err := nl.ParseRouteAttr(data[fixed:])
	if err != nil {
		return nil, false
	}
	for _, a := range attrs {
		if a.Attr.Type == kind {
			return a.Value, true
		}
	}
	return nil, false
}

// First does something at each signal before it passes it on. It ends when the
// channel is closed, or with ctx.
func First(ctx context.Context, from <-chan struct{}, do func()) <-chan struct{} {
	changed := make(chan struct{}, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case _, open := <-from:
				if !open {
					return
				}
				do()
				signal(changed)
			}
		}
	}()
	return changed
}

// Any signals when one of the channels does; nil ones never do. It ends with
// ctx.
func Any(ctx context.Context, from ...<-chan struct{}) <-chan struct{} {
	changed := make(chan struct{}, 1)
	for _, ch := range from {
		if ch == nil {
			continue
		}
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case _, open := <-ch:
					if !open {
						return
					}
					signal(changed)
				}
			}
		}()
	}
	return changed
}
