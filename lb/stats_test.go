package lb

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"shoal/model"
)

// counter is a plane that has counted, and nothing else.
type counter struct {
	DataPlane
	counted map[Key]Stats
}

func (c counter) Stats(visit func(Key, Stats)) error {
	for k, s := range c.counted {
		visit(k, s)
	}
	return nil
}

func TestWhatIsCountedOfAServiceIsSummedByVIPAndByPublishedPort(t *testing.T) {
	id := func(name string) model.ServiceID { return model.ServiceID{Stack: "shop", Name: name} }
	vip := func(last byte, port uint16) Key {
		return Key{VIP: netip.AddrFrom4([4]byte{10, 96, 0, last}), Protocol: model.TCP, Port: port}
	}
	published := Key{Protocol: model.TCP, Port: 8080}
	b := &Balancer{
		applied: map[Key]*Frontend{
			vip(1, 80): {Service: id("web")}, vip(1, 443): {Service: id("web")}, published: {Service: id("web")},
			vip(2, 0): {Service: id("db")}, vip(11, 53): {Service: dnsPeersID},
		},
		plane: counter{counted: map[Key]Stats{
			vip(1, 80): {Connections: 3, Led: 2, PacketsIn: 30, PacketsOut: 40, BytesIn: 300, BytesOut: 400}, vip(1, 443): {Connections: 2, Led: 1, BytesIn: 5}, published: {Connections: 7, BytesOut: 70},
			vip(2, 0): {Connections: 1}, vip(11, 53): {Connections: 9}, vip(9, 9): {Connections: 9}, // of nobody any more
		}},
	}
	got, err := b.Stats()
	want := []ServiceStats{
		{Service: id("db"), VIP: vip(2, 0).VIP, Stats: Stats{Connections: 1}},
		{Service: id("web"), VIP: vip(1, 0).VIP, Stats: Stats{Connections: 5, Led: 3, PacketsIn: 30, PacketsOut: 40, BytesIn: 305, BytesOut: 400}, Published: Stats{Connections: 7, BytesOut: 70}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}
