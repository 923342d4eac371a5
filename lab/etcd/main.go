// Command etcd is one etcd server, as the owner of a cluster may have one besides shoal.
package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	dir := flag.String("dir", "", "its data `folder`")
	listen := flag.String("listen", "", "the `ADDR:PORT` it serves clients on")
	var t transport.TLSInfo
	flag.StringVar(&t.CertFile, "cert", "", "its certificate, a PEM `file`: it speaks TLS, to clients with a certificate only")
	flag.StringVar(&t.KeyFile, "key", "", "the certificate's key, a PEM `file`")
	flag.StringVar(&t.TrustedCAFile, "ca", "", "the CA of its clients' certificates, a PEM `file`")
	flag.Parse()
	if err := run(*dir, *listen, t); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func run(dir, listen string, t transport.TLSInfo) error {
	c := embed.NewConfig()
	c.Dir = dir
	c.LogLevel = "error"
	clients := url.URL{Scheme: "http", Host: listen}
	if !t.Empty() {
		clients.Scheme = "https"
		c.ClientTLSInfo = t
		c.ClientTLSInfo.ClientCertAuth = true
		c.EnableGRPCGateway = false // a client of the server's own, that has no certificate
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	peers := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	c.ListenPeerUrls, c.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	defer e.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		return nil
	case err := <-e.Err():
		return err
	}
}
