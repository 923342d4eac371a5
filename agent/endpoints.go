package agent

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
)

// checkEndpoints refuses endpoints of an etcd to which this host would speak in
// plain text over a network: the store holds the key of the cluster's CA, and
// whoever reads or changes it on its way is a host of the cluster.
//
// The client of etcd decides by the first endpoint whether it uses TLS, for all
// of them. So they have to agree.
func checkEndpoints(endpoints []string, withTLS bool) error {
	for _, e := range endpoints {
		encrypted, local, err := parseEndpoint(e, withTLS)
		if err != nil {
			return err
		}
		if !encrypted && !local {
			return fmt.Errorf("%s: it would be spoken to in plain text, and the key of the cluster's CA is in what is said: "+
				"use https://, with --etcd-ca, --etcd-cert and --etcd-key; without TLS only an etcd on this host, at a loopback address, is accepted", e)
		}
		if first, _, err := parseEndpoint(endpoints[0], withTLS); err == nil && first != encrypted {
			return fmt.Errorf("%s and %s: use TLS for all endpoints or for none", endpoints[0], e)
		}
	}
	return nil
}

// parseEndpoint reads an endpoint as the client of etcd does: whether it is
// spoken to by TLS, and whether it is on this host.
func parseEndpoint(e string, withTLS bool) (encrypted, local bool, err error) {
	if strings.HasPrefix(e, "unix:") || strings.HasPrefix(e, "unixs:") {
		return withTLS || strings.HasPrefix(e, "unixs:"), true, nil
	}
	host, encrypted := e, withTLS
	if scheme, _, found := strings.Cut(e, "://"); found {
		u, err := url.Parse(e)
		if err != nil || u.Host == "" || scheme != "http" && scheme != "https" {
			return false, false, fmt.Errorf("%.200q: write it as https://HOST:PORT", e)
		}
		host, encrypted = u.Host, scheme == "https"
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil || name == "" || port == "" {
		return false, false, fmt.Errorf("%.200q: write it as https://HOST:PORT", e)
	}
	a, err := netip.ParseAddr(name)
	return encrypted, name == "localhost" || err == nil && a.Unmap().IsLoopback(), nil
}
