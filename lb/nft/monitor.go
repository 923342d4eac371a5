package nft

import (
	"bytes"
	"encoding/binary"
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

	mu    sync.Mutex
	heard *sync.Cond
	our   map[uint32]bool // ports of our sockets
	upTo  uint32          // the generation up to which all is heard
	dirty bool            // somebody else changed the table since forgive, or something was missed
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
	m.heard = sync.NewCond(&m.mu)
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
			m.mu.Lock()
			m.dirty = true
			m.mu.Unlock()
			timer.Reset(quiet)
			continue
		case err != nil:
			return // closed
		}
		if m.observe(ms) {
			timer.Reset(quiet)
		}
	}
}

// observe hears messages, and tells whether any is of a foreign change.
func (m *monitor) observe(ms []netlink.Message) (foreign bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, msg := range ms {
		if len(msg.Data) < 4 {
			continue
		}
		if msg.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
			if id := inner(msg.Data[4:], unix.NFTA_GEN_ID); len(id) == 4 {
				m.upTo = binary.BigEndian.Uint32(id)
				m.heard.Broadcast()
			}
		} else if m.foreign(msg) {
			foreign, m.dirty = true, true
		}
	}
	return foreign
}

// forgive begins anew: the table is about to be read.
func (m *monitor) forgive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dirty = false
}

// untouched tells whether nobody else changed the table up to a generation,
// since forgive. It waits a little for what is still under way.
func (m *monitor) untouched(generation uint32) bool {
	late := time.AfterFunc(hearing, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.dirty = true
		m.heard.Broadcast()
	})
	defer late.Stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	for !m.dirty && int32(m.upTo-generation) < 0 {
		m.heard.Wait()
	}
	return !m.dirty
}

// hearing is how long what was changed may take to be told.
const hearing = 200 * time.Millisecond

// foreign tells whether somebody else changed something in the table, or an
// engine's table came or went. The first attribute of all these messages is the
// table's name.
func (m *monitor) foreign(msg netlink.Message) bool {
	if msg.Data[0] != unix.NFPROTO_IPV4 || m.our[msg.Header.PID] {
		return false
	}
	switch string(bytes.TrimRight(inner(msg.Data[4:], unix.NFTA_TABLE_NAME), "\x00")) {
	case tableName:
		return true
	case engineTable:
		kind := msg.Header.Type & 0xff
		return kind == unix.NFT_MSG_NEWTABLE || kind == unix.NFT_MSG_DELTABLE
	}
	return false
}
