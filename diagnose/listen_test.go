package diagnose

import (
	"net/netip"
	"strings"
	"testing"

	"shoal/model"
)

func TestWhoListensOnAPort(t *testing.T) {
	at := addr("10.244.1.5")
	on := func(proto model.Protocol, s string) Listener {
		return Listener{Protocol: proto, Addr: netip.MustParseAddrPort(s), Process: "app (pid 7)"}
	}
	tcp := func(s string) Listener { return on(model.TCP, s) }
	v6only := Listener{Protocol: model.TCP, Addr: netip.MustParseAddrPort("[::]:80"), V6Only: true}
	for name, test := range map[string]struct {
		listens []Listener
		ok      bool
		why     string
		fix     string
		use     uint16
	}{
		"everywhere":               {[]Listener{tcp("0.0.0.0:80")}, true, "app (pid 7) listens on 80/tcp", "", 0},
		"everywhere, by IPv6 too":  {[]Listener{tcp("[::]:80")}, true, "", "", 0},
		"at the task's address":    {[]Listener{tcp("10.244.1.5:80")}, true, "", "", 0},
		"beside one of loopback":   {[]Listener{tcp("127.0.0.1:80"), tcp("10.244.1.5:80")}, true, "", "", 0},
		"loopback":                 {[]Listener{tcp("127.0.0.1:80")}, false, "app (pid 7) listens on 127.0.0.1:80 only", "listen on 0.0.0.0:80", 0},
		"loopback, on other ports": {[]Listener{tcp("127.0.0.1:8000")}, false, "nothing listens; app (pid 7) listens on 127.0.0.1:8000 only", "listen on 0.0.0.0:8000", 0},
		"another network":          {[]Listener{tcp("172.18.0.2:80")}, false, "not on 10.244.1.5", "shoal.network", 0},
		"IPv6 alone":               {[]Listener{v6only}, false, "IPv6 alone", "listen on 0.0.0.0:80", 0},
		"another port":             {[]Listener{tcp("0.0.0.0:8000")}, false, "nothing listens; app (pid 7) listens on 8000/tcp", "", 8000},
		"one other that matters":   {[]Listener{tcp("0.0.0.0:8000"), tcp("127.0.0.1:9000"), on(model.UDP, "127.0.0.11:53")}, false, "8000/tcp", "", 8000},
		"several others":           {[]Listener{tcp("0.0.0.0:8000"), tcp("0.0.0.0:9000")}, false, "8000/tcp, 9000/tcp", "", 0},
		"another protocol":         {[]Listener{on(model.UDP, "0.0.0.0:80"), tcp("0.0.0.0:8000")}, false, "nothing listens on 80/tcp; app (pid 7) listens on 80/udp", "", 80},
		"Docker's resolver":        {[]Listener{tcp("127.0.0.11:80")}, false, "nothing listens, on any port of tcp", "log", 0},
		"nobody":                   {nil, false, "nothing listens, on any port of tcp", "log", 0},
	} {
		h := hears(test.listens, at, model.TCP, 80)
		if h.OK != test.ok || !strings.Contains(h.Why, test.why) || !strings.Contains(h.Fix, test.fix) || h.Fix != "" && test.fix == "" || h.Use != test.use {
			t.Errorf("%s: %+v; want %+v", name, h, test)
		}
	}
}
