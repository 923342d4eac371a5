package catalog

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// testEtcd is an etcd in this process, on a unix socket.
type testEtcd struct {
	endpoint string
	close    func()
}

// etcdServer starts an etcd on the data in dir/etcd.
func etcdServer(t *testing.T, dir string) *testEtcd {
	t.Helper()
	socket := filepath.Join(dir, "etcd.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	at := url.URL{Scheme: "unix", Path: socket}
	c := embed.NewConfig()
	c.Name = "etcd"
	c.Dir = filepath.Join(dir, "etcd")
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	c.ListenPeerUrls = nil
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.TickMs, c.ElectionMs = 50, 250
	c.UnsafeNoFsync = true
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &testEtcd{endpoint: "unix://" + socket, close: sync.OnceFunc(func() {
		<-e.Server.ReadyNotify() // else Close waits without end
		e.Close()
	})}
	t.Cleanup(s.close)
	return s
}
