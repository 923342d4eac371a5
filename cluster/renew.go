package cluster

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"shoal/internal/connlimit"
)

// renewRequest is the body of POST /v1/renew. The key stays the same: it is the
// one of the client's certificate.
type renewRequest struct {
	Addr netip.Addr `json:"addr"`
}

type renewResponse struct {
	Cert []byte `json:"cert"` // DER
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request) {
	peer := r.TLS.PeerCertificates[0]
	node := PeerNode(r)
	body, err := readBody(w, r)
	var q renewRequest
	if err == nil {
		err = json.Unmarshal(body, &q)
	}
	if err != nil || !usable(q.Addr) {
		s.refuse(w, r, http.StatusBadRequest, "the request is no JSON with the host's address", err, "node", node)
		return
	}
	if from := connlimit.Remote(r.RemoteAddr); q.Addr != from && !coversAddr(peer, q.Addr) {
		s.refuse(w, r, http.StatusForbidden, fmt.Sprintf(
			"the request came from %s, and says that the host's address is %s, which it was not before", from, q.Addr), nil, "node", node)
		return
	}
	a := s.canIssue(w, r)
	if a == nil {
		return
	}
	cert, err := s.id.reissue(a, peer, q.Addr)
	if err == nil {
		err = s.o.Registry.renew(r.Context(), node, keyOf(peer), q.Addr, cert)
	}
	switch {
	case errors.Is(err, ErrRemoved), errors.Is(err, ErrNameTaken):
		s.refuse(w, r, http.StatusForbidden, "node "+node+" was removed from the cluster", err, "node", node)
	case err != nil:
		s.fail(w, r, err)
	default:
		s.log.Info("renewed a host's certificate", "node", node, "addr", q.Addr, "until", cert.NotAfter)
		respond(w, http.StatusOK, renewResponse{cert.Raw})
	}
}

// reissue makes a new certificate for the holder of an old one.
func (id *Identity) reissue(a *authority, old *x509.Certificate, addr netip.Addr) (*x509.Certificate, error) {
	pub, err := parsePublic(old)
	if err != nil {
		return nil, err
	}
	return a.issue(old.Subject.CommonName, addr, pub, id.now())
}

func coversAddr(c *x509.Certificate, a netip.Addr) bool {
	return slices.ContainsFunc(c.IPAddresses, func(ip net.IP) bool {
		b, ok := netip.AddrFromSlice(ip)
		return ok && b.Unmap() == a
	})
}

// KeepEnrolled does what [Registry.Enrol] does now, and again whenever the store may have
// lost this host's record: it was put back to an earlier state, or made anew at the same
// address. It returns when ctx ends, or when this host is not of the cluster any more,
// which is logged.
func (id *Identity) KeepEnrolled(ctx context.Context, r *Registry) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r.follow(ctx, membersRoot+id.Node(), func() error {
		bounded, cancel := context.WithTimeout(ctx, again)
		defer cancel()
		err := r.Enrol(bounded, id)
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, ErrRemoved), errors.Is(err, ErrNameTaken):
			id.host.Log.Error("this host is not of the cluster any more: stop it, remove its state folder and join again with a new token", "error", err)
			stop()
		default:
			id.host.Log.Debug("this host is not known to be a member yet", "error", err)
		}
		select { // two hosts of one identity may change the record in turn
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		return err
	})
}

// renewBefore is how long before its end a certificate is renewed: with a third of its life left.
const renewBefore = certLife / 3

// due tells whether this host should have another certificate: its own ends soon, and not with the CA's, or it is of a clock that was ahead,
// or of another address.
func (id *Identity) due() bool {
	c, now := id.leaf(), id.now()
	if now.Before(validFrom) {
		return false // a clock that was never set: what it has is better
	}
	return !now.Before(id.RenewalDue()) || c.NotAfter.After(now.Add(certLife+skew)) || !coversAddr(c, id.host.Addr)
}

const (
	renewCheck = 10 * time.Minute // how often it is seen whether renewal is due
	renewAgain = 24 * time.Hour   // how soon a certificate is renewed that was just made

	// After a failure. A host that moved waits for its certificate: until then
	// others cannot speak to it.
	renewRetryFirst = time.Second
	renewRetryLast  = time.Minute
)

// KeepFresh renews this host's certificate when two thirds of its life are over
// or the host has another address than it says, until ctx ends: by this host
// itself if it holds the CA's key, else by one of servers that does. There is a
// month to try in, so what goes wrong is logged and tried again.
func (id *Identity) KeepFresh(ctx context.Context, r *Registry, servers func() []netip.AddrPort) {
	for retry := renewRetryFirst; ; {
		wait := renewCheck
		if id.due() {
			if err := id.Renew(ctx, r, servers()); err != nil && ctx.Err() == nil {
				id.host.Log.Warn("this host's certificate could not be renewed yet", "until", id.Expires(), "error", err)
				wait, retry = retry, min(2*retry, renewRetryLast)
			} else {
				retry = renewRetryFirst
				if id.due() { // the clock of the host that issued it differs from this one's
					wait = renewAgain
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Renew gets this host a new certificate now.
func (id *Identity) Renew(ctx context.Context, r *Registry, servers []netip.AddrPort) error {
	var cert *x509.Certificate
	var err error
	if a := id.authority(); a != nil {
		if cert, err = id.reissue(a, id.leaf(), id.host.Addr); err == nil {
			err = r.renew(ctx, id.Node(), id.Key(), id.host.Addr, cert)
		}
	} else if id.Ended() {
		err = fmt.Errorf("it ended on %s, and the other hosts refuse it: restart the agent with --join and a new token (shoal token create)", id.Expires().Format(time.DateOnly))
	} else {
		var answer renewResponse
		if err = id.askAny(ctx, servers, http.MethodPost, "/v1/renew", encode(renewRequest{id.host.Addr}), &answer); err == nil {
			cert, err = x509.ParseCertificate(answer.Cert)
		}
	}
	if err == nil {
		err = checkIssued(cert, id.ca, id.key, id.Node())
	}
	if err == nil {
		id.saving.Lock()
		err = writeFile(id.host.Dir, certFile, certPEM(cert, id.ca))
		id.saving.Unlock()
	}
	if err != nil {
		return fmt.Errorf("renew the certificate of node %s: %w", id.Node(), err)
	}
	id.setCert(cert)
	id.host.Log.Info("renewed this host's certificate", "until", cert.NotAfter)
	return nil
}

// Rejoin greets one of the servers, hosts that may know more than this one: its
// certificate is its proof. It tells where everything is by now.
func (id *Identity) Rejoin(ctx context.Context, servers []netip.AddrPort) (*Welcome, error) {
	w := new(Welcome)
	if err := id.askAny(ctx, servers, http.MethodGet, "/v1/welcome", nil, w); err != nil {
		return nil, fmt.Errorf("come back to the cluster as node %s: %w", id.Node(), err)
	}
	return w, nil
}

// FetchCA gets the CA's key from one of the servers that hold it, for a host
// that is to serve the store: [ServerOptions.MayHoldCA] of the other decides.
func (id *Identity) FetchCA(ctx context.Context, servers []netip.AddrPort) error {
	if id.HoldsCA() {
		return nil
	}
	var answer caResponse
	err := id.askAny(ctx, servers, http.MethodPost, "/v1/ca", nil, &answer)
	if err == nil {
		err = id.keepCAKey(answer.Key)
	}
	if err != nil {
		return fmt.Errorf("get the CA's key: %w", err)
	}
	return nil
}

// askTimeout is how long one host may take to answer.
const askTimeout = 15 * time.Second

// askAny asks one server after the other, and those they point to, until one
// does what is asked.
func (id *Identity) askAny(ctx context.Context, servers []netip.AddrPort, method, path string, body []byte, answer any) error {
	asked := map[netip.AddrPort]bool{}
	var errs []error
	for queue := slices.Clone(servers); len(queue) > 0; queue = queue[1:] {
		server := queue[0]
		if asked[server] {
			continue
		}
		asked[server] = true
		bounded, cancel := context.WithTimeout(ctx, askTimeout)
		err := call(bounded, id.client, method, server, path, body, answer)
		cancel()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("host %s: %w", server, err))
		if refused := (*remoteError)(nil); errors.As(err, &refused) {
			queue = append(queue, refused.try...)
		}
	}
	if len(errs) == 0 {
		return errors.New("no other host is known")
	}
	return errors.Join(errs...)
}
