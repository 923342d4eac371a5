package store

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"shoal/internal/memory"
)

// An etcd whose disk is full, or whose data is damaged, ends its process: by
// design, as it cannot tell what else is true then. So it has one of its own, and
// the agent goes on without its store: with the state that it has, names are
// answered and the kernel's tables are repaired. The process is the agent's program
// again, by another name; the two talk by a pair of sockets, in JSON:
//
//	agent: the serverConfig            etcd: report, once it listens, or has failed
//	agent: order, to close             etcd: report, once it has found a leader
//
// The etcd ends when the agent does, however that ends: its end of the pair is
// closed then.

// childName is what the process of an etcd is called.
const childName = "shoal-store"

// report is what etcd tells the agent.
type report struct {
	Member uint64 `json:",omitempty"` // it listens, and that is its ID
	Leads  bool   `json:",omitempty"` // it has found a leader
	Failed string `json:",omitempty"` // why it did not start
}

// order is what the agent tells etcd.
type order struct{ Close bool }

// IsChild tells whether this process is to run an etcd, and nothing else: a
// program that uses this package calls [RunChild] then, before anything else.
func IsChild() bool { return len(os.Args) == 1 && os.Args[0] == childName }

// RunChild runs the etcd of the agent that started this process until it ends,
// and returns the exit status. revoked makes of [Peers.RevokedFile] what tells why
// the certificate of an open connection is not good any more; it is called for each
// request. nil: no certificate is asked about.
func RunChild(revoked func(file string) func(*x509.Certificate) error) int {
	// The agent ends it when it needs it no more. Those who stop a service signal
	// all its processes at once.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	memory.Limit(memory.StoreShare, log)
	if err := runChild(revoked, log); err != nil {
		log.Error("the store cannot run", "error", err)
		return 1
	}
	return 0
}

func runChild(revoked func(file string) func(*x509.Certificate) error, log *slog.Logger) error {
	f := os.NewFile(3, "agent")
	if f == nil {
		return errors.New("this program is started by the agent, with a connection to it")
	}
	conn, err := net.FileConn(f)
	if err != nil {
		return err
	}
	f.Close()
	from, to := json.NewDecoder(conn), json.NewEncoder(conn)
	var sc serverConfig
	if err := from.Decode(&sc); err != nil {
		return err
	}
	var check func(*x509.Certificate) error
	if revoked != nil && sc.Peers != nil && sc.Peers.RevokedFile != "" {
		check = revoked(sc.Peers.RevokedFile)
	}
	closing := make(chan struct{})
	go func() {
		var o order
		if from.Decode(&o) != nil || !o.Close {
			os.Exit(0) // the agent is gone; what is written is on the disk
		}
		close(closing)
	}()
	e, err := startEtcd(sc, check, log)
	if err != nil {
		return to.Encode(report{Failed: err.Error()})
	}
	if err := to.Encode(report{Member: uint64(e.etcd.Server.MemberID())}); err != nil {
		return err
	}
	go e.maintain(sc.MaintainEvery, log)
	ready := e.etcd.Server.ReadyNotify()
	for {
		select {
		case <-ready:
			ready = nil
			if err := to.Encode(report{Leads: true}); err != nil {
				return err
			}
		case <-closing:
			e.close()
			return nil
		case <-e.etcd.Server.StopNotify():
			select {
			case <-closing:
				return nil
			default:
			}
			return errors.New("etcd stopped")
		}
	}
}
