package agent

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"shoal/cluster"
)

// TestHostsOfOneEtcdAreEqual: each comes in by the etcd alone, whoever else is there.
func TestHostsOfOneEtcdAreEqual(t *testing.T) {
	theirs := Config{Node: "etcd", StateDir: stateDir(t)}
	openStore(t, theirs)
	endpoint := "unix://" + filepath.Join(theirs.StateDir, "etcd.sock")
	var first *cluster.Identity
	for i, node := range []string{"a", "b"} {
		c := Config{Node: node, Advertise: netip.AddrFrom4([4]byte{127, 0, 78, byte(i + 1)}), StateDir: stateDir(t), Etcd: []string{endpoint}}
		s, cat := openStore(t, c)
		id, err := identifyByStore(t.Context(), c, cat.KV(), nil, testLog(t))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = id
		}
		if !id.HoldsCA() || id.CAFingerprint() != first.CAFingerprint() {
			t.Errorf("%s is not what the first is", node)
		}
		m := newMembership(c, id, s, cat, testLog(t))
		if members, err := m.reg.Members(t.Context()); err != nil || len(members) != i+1 {
			t.Errorf("the members are %v, %v", members, err)
		}
		if _, err := m.createToken(t.Context(), time.Hour, 1); err == nil || !strings.Contains(err.Error(), "--etcd") {
			t.Errorf("a token was asked for: %v", err)
		}
		again, err := identifyByStore(t.Context(), c, nil, nil, testLog(t)) // another start needs no etcd
		if err != nil || again.Key() != id.Key() {
			t.Errorf("%s starts again as another: %v", node, err)
		}
	}
}

func TestWhatIsInTheWayOfAnEtcdIsTold(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	trusted := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, tt := range map[string]struct {
		endpoints []string
		conf      *tls.Config
		want      string // "": nothing is
	}{
		"nobody listens":       {[]string{"http://" + closed.Addr().String()}, nil, "connection refused"},
		"one of two":           {[]string{"http://" + closed.Addr().String(), "http://" + server.Listener.Addr().String()}, nil, ""},
		"a CA not known":       {[]string{server.URL}, nil, "unknown authority"},
		"no certificate":       {[]string{server.URL}, &tls.Config{RootCAs: trusted}, "certificate required"},
		"all as it should be":  {[]string{server.URL}, &tls.Config{RootCAs: trusted, Certificates: server.TLS.Certificates}, ""},
		"an etcd of this host": {[]string{"unix:///run/etcd.sock"}, nil, ""},
	} {
		err := reach(t.Context(), tt.endpoints, tt.conf)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
