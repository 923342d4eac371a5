package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"shoal/internal/connlimit"
	"shoal/internal/statefile"
)

// A cluster that lost its CA's key with its store goes on under a new CA. A host
// makes the new identity in a folder beside the one that it has, and changes to it
// in one step; the host with the new CA keeps the former one, by which the others
// know it, until they have changed too.
//
// What vouches for the new CA is a certificate of the former one. A member could
// as well make itself one that holds the CA's key, see doc.go: it gains nothing.

// followTime bounds how long a host takes to join in order to follow.
const followTime = time.Minute

func besideDir(dir string) string { return dir + ".new" }
func formerDir(dir string) string { return dir + ".former" }

func (h Host) beside() Host {
	h.Dir = besideDir(h.Dir)
	return h
}

// CreateBeside makes a new cluster's identity beside the host's own.
func CreateBeside(h Host) error {
	if err := os.RemoveAll(besideDir(h.Dir)); err != nil {
		return err
	}
	_, err := Create(h.beside())
	return err
}

// JoinBeside is [Join] with the identity made beside the host's own.
func JoinBeside(ctx context.Context, h Host, server netip.AddrPort, token string) (*Welcome, error) {
	ca, _, err := parseToken(token)
	if err != nil {
		return nil, err
	}
	if err := sameCluster(besideDir(h.Dir), ca); err != nil { // of an attempt that came to nothing
		if err := os.RemoveAll(besideDir(h.Dir)); err != nil {
			return nil, err
		}
	}
	h.Settings = "" // a host that follows is of the cluster already
	_, w, err := Join(ctx, h.beside(), server, token)
	return w, err
}

// Change makes the identity beside the host's own its own. The former one is kept: it
// has its name for that before the change, as without it the other hosts would not know
// this one, wherever the change breaks off.
func Change(h Host) error {
	if err := keepFormer(h); err != nil {
		return fmt.Errorf("keep the former identity: %w", err)
	}
	if err := statefile.Exchange(besideDir(h.Dir), h.Dir); err != nil {
		return err
	}
	return os.RemoveAll(besideDir(h.Dir))
}

// keepFormer makes the host's identity its former one too. Its files are never written
// to, only replaced, so that links are as good as copies.
func keepFormer(h Host) error {
	part := formerDir(h.Dir) + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o700)); err != nil {
		return err
	}
	files, err := os.ReadDir(h.Dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := os.Link(filepath.Join(h.Dir, f.Name()), filepath.Join(part, f.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(formerDir(h.Dir)); err != nil {
		return err
	}
	return statefile.Rename(part, formerDir(h.Dir))
}

// LastAddr is the address that the host's certificate is for.
func LastAddr(h Host) (netip.Addr, error) {
	b, err := os.ReadFile(filepath.Join(h.Dir, certFile))
	if errors.Is(err, os.ErrNotExist) {
		return netip.Addr{}, ErrNotJoined
	}
	if err == nil {
		var cert *x509.Certificate
		if cert, err = parseCertPEM(b); err == nil && len(cert.IPAddresses) > 0 {
			addr, _ := netip.AddrFromSlice(cert.IPAddresses[0])
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("read this host's address from its certificate: %w", err)
}

// Former reads the identity that the host had before [Change]. Where there is none,
// the error is [ErrNotJoined].
func Former(h Host) (*Identity, error) {
	if _, err := os.Stat(formerDir(h.Dir)); errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotJoined // load would make the folder
	}
	h.Dir = formerDir(h.Dir)
	return Load(h)
}

// ForgetFormer removes what [Change] kept.
func ForgetFormer(h Host) error { return os.RemoveAll(formerDir(h.Dir)) }

// Recovered is what a host that made a new store tells the others.
type Recovered struct {
	CA    string `json:"ca"`    // fingerprint of the CA that the store's hosts have now
	Token string `json:"token"` // to join by; for a host whose CA that is, of no use
}

// TellRecovered tells another host, as who this one was, of the new store. It
// returns once the other host has taken that in, or an error why it does not.
func (id *Identity) TellRecovered(ctx context.Context, server netip.AddrPort, r Recovered) error {
	var answer struct{}
	return call(ctx, id.client, http.MethodPost, server, "/v1/recovered", encode(r), &answer)
}

// ServeRecovered handles [Identity.TellRecovered]. accept is given the address of the
// host that has the new store.
func ServeRecovered(accept func(ctx context.Context, node string, addr netip.Addr, r Recovered) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var r Recovered
		_ = TakeTime(w, followTime) // it joins meanwhile
		body, err := readBody(w, req)
		if err == nil {
			err = json.Unmarshal(body, &r)
		}
		if err != nil {
			respond(w, http.StatusBadRequest, refusal{Error: err.Error()})
			return
		}
		if err := accept(req.Context(), PeerNode(req), connlimit.Remote(req.RemoteAddr), r); err != nil {
			respond(w, http.StatusConflict, refusal{Error: err.Error()})
			return
		}
		respond(w, http.StatusOK, struct{}{})
	})
}
