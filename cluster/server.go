package cluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"shoal/internal/connlimit"
)

// The ports of a host, unless told otherwise.
const (
	DefaultPort       = 7947 // TCP: [Server]
	DefaultGossipPort = 7946 // TCP and UDP: [Liveness]
)

// What one who is not trusted yet can make the server hold: bytes of a body and
// of headers, connections in all and from one address, time. Some connections are left
// to members, so that strangers cannot keep them from each other.
const (
	maxBody      = 16 << 10
	maxHeader    = 8 << 10
	maxConns     = 1024
	maxConnsEach = 64
	memberConns  = 256             // of maxConns, for members' addresses only
	helloTimeout = 5 * time.Second // for the handshake and the headers
	bodyTimeout  = 15 * time.Second
	idleTimeout  = time.Minute

	guessBurst = 5 // wrong tokens from an address, then one every
	guessEvery = 2 * time.Second
)

// ServerOptions say what a [Server] serves.
type ServerOptions struct {
	Identity *Identity
	Registry *Registry
	Port     uint16 // on the identity's address; 0: [DefaultPort]

	// Cluster returns what a host that joins or comes back has to know besides:
	// opaque here, at most some KiB of JSON. It may be called at any time.
	Cluster func(ctx context.Context, node string) (json.RawMessage, error)
	// Open makes the cluster ready for more hosts. It is called for each that
	// shows a good token, before it is admitted. nil: there is nothing to do.
	Open func(ctx context.Context) error
	// MayHoldCA tells whether a node is to be given the CA's key, because it
	// serves the store, with a vote. nil: none.
	MayHoldCA func(ctx context.Context, node string) (bool, error)

	// Seen is told from where a host of the cluster has made a request. nil: nobody
	// wants to know.
	Seen func(netip.Addr)
	// IsMember tells whether an address is that of a host of the cluster, for which
	// a share of the connections is kept. It is called for each connection and may
	// not wait. nil: nothing is kept.
	IsMember func(netip.Addr) bool

	bodyTimeout time.Duration // 0: the constant of that name; tests have a shorter one
}

// Server is this host's HTTPS port for other hosts. One that has a token may
// join; all else is for hosts that show a certificate of the cluster. It
// listens once [Server.Start] is called, and only then.
type Server struct {
	o       ServerOptions
	id      *Identity
	log     *slog.Logger
	mux     *http.ServeMux
	guesses *limiter // of tokens
	lines   *limiter // of log about an address

	mu   sync.Mutex
	http *http.Server
}

// NewServer returns a server that does not listen yet.
func NewServer(o ServerOptions) *Server {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	o.bodyTimeout = cmp.Or(o.bodyTimeout, bodyTimeout)
	s := &Server{
		o:       o,
		id:      o.Identity,
		log:     o.Identity.host.Log,
		mux:     http.NewServeMux(),
		guesses: newLimiter(guessBurst, guessEvery, o.Identity.now),
		lines:   newLimiter(10, 6*time.Second, o.Identity.now),
	}
	s.mux.HandleFunc("POST /v1/join", s.join)
	s.Handle("GET /v1/welcome", http.HandlerFunc(s.welcome))
	s.Handle("POST /v1/renew", http.HandlerFunc(s.renew))
	s.Handle("POST /v1/ca", http.HandlerFunc(s.giveCA))
	return s
}

// Handle adds a handler, by a pattern of [http.ServeMux], for hosts of the
// cluster only: [PeerNode] tells it which one asks. To be called before Start.
func (s *Server) Handle(pattern string, h http.Handler) {
	s.mux.Handle(pattern, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			s.refuse(w, r, http.StatusForbidden, "this is for hosts of the cluster: a certificate of its CA is needed", nil)
			return
		}
		if err := s.id.CheckRevoked(r.TLS.PeerCertificates[0]); err != nil {
			s.refuse(w, r, http.StatusForbidden, err.Error(), nil)
			return
		}
		h.ServeHTTP(w, r)
	}))
}

// seen tells from where hosts of the cluster make requests.
func (s *Server) seen(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if certs := r.TLS.PeerCertificates; s.o.Seen != nil && len(certs) > 0 && s.id.CheckRevoked(certs[0]) == nil {
			s.o.Seen(connlimit.Remote(r.RemoteAddr))
		}
		h.ServeHTTP(w, r)
	})
}

// TakeTime lets a handler of a [Server] take so long for its answer, from now
// on; else it is cut off after 30 s, and its request's context ends after 15.
func TakeTime(w http.ResponseWriter, d time.Duration) error {
	c, until := http.NewResponseController(w), time.Now().Add(d)
	// The connection is read while the handler runs, to see whether the client
	// leaves; that it could not be read any longer would look the same.
	return errors.Join(c.SetReadDeadline(until), c.SetWriteDeadline(until))
}

// PeerNode is the name of the host that makes a request of a [Server]'s handler.
func PeerNode(r *http.Request) string { return r.TLS.PeerCertificates[0].Subject.CommonName }

// Addr is where the server listens, or will.
func (s *Server) Addr() netip.AddrPort { return netip.AddrPortFrom(s.id.host.Addr, s.o.Port) }

// Start makes the server listen. If it does already, nothing is done.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.Addr().String())
	if err != nil {
		return fmt.Errorf("listen for other hosts: %w; is the address this host's, and the port free?", err)
	}
	t := s.id.ServerTLS()
	t.ClientAuth = tls.VerifyClientCertIfGiven // those that want to join have none
	t.NextProtos = []string{"http/1.1"}
	s.http = &http.Server{
		Handler:           s.seen(s.mux),
		TLSConfig:         t,
		ReadHeaderTimeout: helloTimeout,
		ReadTimeout:       s.o.bodyTimeout,
		WriteTimeout:      2 * s.o.bodyTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		Protocols:         new(http.Protocols),
		ErrorLog:          log.New(handshakeLog{s}, "", 0),
	}
	s.http.Protocols.SetHTTP1(true)
	places := connlimit.NewPlaces(maxConns, maxConnsEach)
	if s.o.IsMember != nil {
		places.Reserve(memberConns, s.o.IsMember)
	}
	go s.http.ServeTLS(connlimit.Listener(l, places), "", "")
	s.log.Info("listening for other hosts", "addr", s.Addr())
	return nil
}

// Close stops listening and closes all connections. Start begins anew.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http == nil {
		return nil
	}
	err := s.http.Close()
	s.http = nil
	return err
}

// handshakeLog takes the lines that net/http writes of failed handshakes. Who
// opens a connection and says nothing, or nothing of TLS, is not worth a line
// at each port scan.
type handshakeLog struct{ s *Server }

func (h handshakeLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	var addr netip.Addr
	if rest, ok := strings.CutPrefix(text, "http: TLS handshake error from "); ok {
		peer, why, _ := strings.Cut(rest, ": ")
		addr = connlimit.Remote(peer)
		text = "refused a connection: " + why
	}
	if ok, _ := h.s.lines.allow(addr); ok {
		h.s.log.Warn(text, "from", addr)
	}
	return len(line), nil
}

// refusal is what is answered to who is refused.
type refusal struct {
	Error string           `json:"error"`
	Try   []netip.AddrPort `json:"try,omitempty"` // hosts that can do what this one cannot
}

// refuse answers with public and logs why as well, or public where that is nil.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, code int, public string, why error, args ...any) {
	from := connlimit.Remote(r.RemoteAddr)
	if why == nil {
		why = errors.New(public)
	}
	if ok, _ := s.lines.allow(from); ok {
		s.log.Warn("refused a request", append([]any{"request", r.Method + " " + r.URL.Path, "from", from, "why", why}, args...)...)
	}
	respond(w, code, refusal{Error: public})
}

// fail answers to a host that did nothing wrong.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.log.Error("a request failed", "request", r.Method+" "+r.URL.Path, "from", connlimit.Remote(r.RemoteAddr), "error", err)
	respond(w, http.StatusServiceUnavailable, refusal{Error: "not possible just now, try again; this host's log says why"})
}

func respond(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(encode(v))
}

// readBody reads at most maxBody of a request.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
}

// canIssue finds the CA's key. Where this host does not hold it, the one that
// asks is sent to those that do.
func (s *Server) canIssue(w http.ResponseWriter, r *http.Request) *authority {
	a := s.id.authority()
	if a != nil {
		return a
	}
	members, err := s.o.Registry.Members(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return nil
	}
	answer := refusal{Error: "this host does not hold the CA's key"}
	for _, m := range members {
		if m.CA {
			answer.Try = append(answer.Try, netip.AddrPortFrom(m.Addr, s.o.Port))
		}
	}
	respond(w, http.StatusMisdirectedRequest, answer)
	return nil
}

// Welcome is what a host is told when it joins or comes back.
type Welcome struct {
	Cluster json.RawMessage       `json:"cluster,omitempty"` // see [ServerOptions]
	Peers   map[string]netip.Addr `json:"peers"`             // every member's address, the asking one's too
}

func (s *Server) newWelcome(ctx context.Context, node string) (w Welcome, err error) {
	if s.o.Cluster != nil {
		if w.Cluster, err = s.o.Cluster(ctx, node); err != nil {
			return w, fmt.Errorf("tell node %s of the cluster: %w", node, err)
		}
	}
	members, err := s.o.Registry.Members(ctx)
	if err != nil {
		return w, err
	}
	w.Peers = map[string]netip.Addr{}
	for _, m := range members {
		w.Peers[m.Node] = m.Addr
	}
	return w, nil
}

func (s *Server) welcome(w http.ResponseWriter, r *http.Request) {
	answer, err := s.newWelcome(r.Context(), PeerNode(r))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	respond(w, http.StatusOK, answer)
}

// giveCA hands the CA's key to a host that is to serve the store.
func (s *Server) giveCA(w http.ResponseWriter, r *http.Request) {
	node := PeerNode(r)
	a := s.canIssue(w, r)
	if a == nil {
		return
	}
	may := false
	if s.o.MayHoldCA != nil {
		var err error
		if may, err = s.o.MayHoldCA(r.Context(), node); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	if !may {
		s.refuse(w, r, http.StatusForbidden, "node "+node+" is not to hold the CA's key: it has no vote in the store", nil)
		return
	}
	key, err := keyPEM(a.key)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.log.Info("gave the CA's key to a host that serves the store", "node", node)
	respond(w, http.StatusOK, caResponse{key})
}

type caResponse struct {
	Key []byte `json:"key"` // PEM
}
