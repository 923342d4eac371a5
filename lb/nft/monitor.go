package nft

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// monitor hears what anybody changes in nf_tables, and tells if it was in the
// table and not by this process.
type monitor struct {
	c       *netlink.Conn
	changed chan struct{}

	mu  sync.Mutex
	our map[uint32]bool // ports of our sockets
}

func newMonitor() (*monitor, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for changes of nf_tables: %w", err)
	}
	if _, err := prepare(c); err != nil {
		c.Close()
		return nil, fmt.Errorf("listen for changes of nf_tables: %w", err)
	}
	m := &monitor{c: c, changed: make(chan struct{}, 1), our: map[uint32]bool{}}
	go m.run()
	return m, nil
}

// own takes in the ports of sockets whose changes are no news.
func (m *monitor) own(ports ...uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range ports {
		m.our[p] = true
	}
}

func (m *monitor) close() { m.c.Close() }

// quiet is how long after a foreign change others are taken together with it.
const quiet = 20 * time.Millisecond

func (m *monitor) tell() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// also tells of other changes, until there are none any more.
func (m *monitor) also(changed <-chan struct{}) {
	for range changed {
		m.tell()
	}
}

func (m *monitor) run() {
	timer := time.AfterFunc(time.Hour, m.tell)
	defer timer.Stop()
	timer.Stop()
	for {
		ms, err := m.c.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			timer.Reset(quiet) // something was missed
			continue
		case err != nil:
			return // closed
		}
		for _, msg := range ms {
			if m.foreign(msg) {
				timer.Reset(quiet)
				break
			}
		}
	}
}

// foreign tells whether somebody else changed something in the table. In all
// messages but that of a new generation the first attribute is the table's name.
func (m *monitor) foreign(msg netlink.Message) bool {
	if msg.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(msg.Data) < 4 || msg.Data[0] != unix.NFPROTO_IPV4 {
		return false
	}
	m.mu.Lock()
	ours := m.our[msg.Header.PID]
	m.mu.Unlock()
	return !ours && string(bytes.TrimRight(inner(msg.Data[4:], unix.NFTA_TABLE_NAME), "\x00")) == tableName
}
