package cluster

import (
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestGenerationsAreToldAndAsked: on one host's addresses, without namespaces.
func TestGenerationsAreToldAndAsked(t *testing.T) {
	t.Parallel()
	addrs := map[string]netip.Addr{}
	for i, name := range []string{"a", "b", "stranger"} {
		addrs[name] = netip.AddrFrom4([4]byte{127, 77, 1, byte(i + 1)})
	}
	free, err := net.Listen("tcp", "127.77.1.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(free.Addr().String()).Port()
	free.Close()
	dirs := identities(t, addrs)
	type heard struct {
		node string
		is   Generation
	}
	// The stranger knows the others, and has the key; they do not know it.
	known := map[string]netip.Addr{"a": addrs["a"], "b": addrs["b"]}
	all, ears := map[string]*Liveness{}, map[string]chan heard{}
	for i, name := range []string{"a", "b", "stranger"} {
		id, err := Load(Host{Dir: dirs[name], Node: name, Addr: addrs[name]})
		if err != nil {
			t.Fatal(err)
		}
		ear := make(chan heard, 16)
		l, err := StartLiveness(LivenessOptions{
			Node: name, Addr: addrs[name], Port: port, Identity: id, Peers: func() map[string]netip.Addr { return known },
			Generation:      func() Generation { return Generation{uint64(i + 1), int64(10 * i), 7} },
			HeardGeneration: func(node string, is Generation) { ear <- heard{node, is} },
			Log:             slog.New(slog.NewTextHandler(t.Output(), nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Restart() })
		all[name], ears[name] = l, ear
	}
	hears := func(who string, want heard) {
		t.Helper()
		select {
		case got := <-ears[who]:
			if got != want {
				t.Errorf("%s hears %+v, not %+v", who, got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s hears nothing, not %+v", who, want)
		}
	}
	all["stranger"].TellGeneration()
	all["stranger"].AskGenerations(nil)
	all["a"].TellGeneration()
	hears("b", heard{"a", Generation{1, 0, 7}})
	all["a"].AskGenerations(nil)
	hears("a", heard{"b", Generation{2, 10, 7}})
	all["b"].AskGenerations(map[string]bool{"nobody": true})
	all["b"].AskGenerations(map[string]bool{"a": true})
	hears("b", heard{"a", Generation{1, 0, 7}})
	for who, ear := range ears {
		if len(ear) > 0 {
			t.Errorf("%s hears %+v besides", who, <-ear)
		}
	}
}

func TestMessagesOfGossipAreToldApart(t *testing.T) {
	ask := encode(generationMessage{Version: 1, Node: "a", Why: whyAsk})
	for name, test := range map[string]struct {
		message             string
		goodbye, generation bool
	}{
		"goodbye":       {string(encodeGoodbye("a")), true, false},
		"question":      {string(ask), false, true},
		"another why":   {`{"v":1,"node":"a","why":"leaving"}`, false, false},
		"later version": {`{"v":2,"node":"a","why":"generation"}`, false, false},
		"no JSON":       {"generation", false, false},
	} {
		_, goodbye := decodeGoodbye([]byte(test.message))
		_, generation := decodeGeneration([]byte(test.message))
		if goodbye != test.goodbye || generation != test.generation {
			t.Errorf("%s: goodbye %t, generation %t", name, goodbye, generation)
		}
	}
}
