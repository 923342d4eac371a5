package agent

import (
	"strings"
	"testing"
)

// TestNoEtcdIsSpokenToInPlainText, but one on this host.
func TestNoEtcdIsSpokenToInPlainText(t *testing.T) {
	for endpoints, tt := range map[string]struct {
		say string // what the error mentions; "": none
	}{
		"https://192.0.2.1:2379":                       {},
		"https://etcd.example:2379":                    {},
		"https://192.0.2.1:2379,https://192.0.2.2:1":   {},
		"http://127.0.0.1:2379":                        {},
		"http://127.9.9.9:2379":                        {},
		"http://[::1]:2379":                            {},
		"http://localhost:2379":                        {},
		"http://[::ffff:127.0.0.1]:2379":               {},
		"127.0.0.1:2379":                               {},
		"unix:///run/etcd.sock":                        {},
		"http://192.0.2.1:2379":                        {say: "CA"},
		"HTTP://192.0.2.1:2379":                        {say: "https://HOST:PORT"},
		"http://etcd.example:2379":                     {say: "CA"},
		"http://127.0.0.1.example:2379":                {say: "CA"},
		"http://localhost.example:2379":                {say: "CA"},
		"http://0.0.0.0:2379":                          {say: "CA"},
		"http://[2001:db8::1]:2379":                    {say: "CA"},
		"192.0.2.1:2379":                               {say: "CA"},
		"http://127.0.0.1:2379,http://192.0.2.1:2379":  {say: "http://192.0.2.1:2379: it would"},
		"http://127.0.0.1:2379,https://192.0.2.1:2379": {say: "for all endpoints"}, // the client would take no TLS to either
		"https://192.0.2.1:2379,http://127.0.0.1:2379": {say: "for all endpoints"},
		"dns:///etcd.example:2379":                     {say: "https://HOST:PORT"},
		"https://:2379":                                {say: "https://HOST:PORT"},
		"https://192.0.2.1":                            {say: "https://HOST:PORT"},
	} {
		c := Defaults()
		c.Node, c.Etcd = "a", strings.Split(endpoints, ",")
		err := c.Check()
		if (err == nil) != (tt.say == "") || err != nil && (!strings.Contains(err.Error(), tt.say) || !strings.Contains(err.Error(), "--etcd")) {
			t.Errorf("%s: %v; want an error with %q", endpoints, err, tt.say)
		}
	}
	// Files for TLS make the same of an endpoint without a scheme; not of one that says http.
	c := Defaults()
	c.Node, c.Etcd, c.EtcdCA = "a", []string{"192.0.2.1:2379"}, "ca.pem"
	if err := c.Check(); err != nil {
		t.Error(err)
	}
	c.Etcd = []string{"http://192.0.2.1:2379"}
	if err := c.Check(); err == nil {
		t.Error("http:// was taken, as there is a CA")
	}
}
