package lab

import (
	"net/netip"
	"reflect"
	"slices"
	"testing"
)

func backend(addr string, weight int) Backend { return Backend{netip.MustParseAddrPort(addr), weight} }

func TestFrontendsOfIPVS(t *testing.T) {
	const out = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  1392508929 rr
  -> 10.244.1.2:0                 Masq    1      0          12
  -> 10.244.0.2:0                 Masq    100    0          0
  -> 10.244.2.2:0                 Masq    0      1          0
FWM  1392508930 wrr persistent 60
FWM  1392508931 rr
  -> 10.244.1.1:53                Masq    1      0          3
,
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  8000 rr
  -> 10.244.0.2:8000              Masq    1      0          0`
	got, err := parseIPVS(out)
	want := []Frontend{
		{false, "rr", []Backend{backend("10.244.0.2:0", 100), backend("10.244.1.2:0", 1), backend("10.244.2.2:0", 0)}},
		{false, "wrr", nil},
		{false, "rr", []Backend{backend("10.244.1.1:53", 1)}},
		{true, "rr", []Backend{backend("10.244.0.2:8000", 1)}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got, err := parseIPVS("IP Virtual Server version 1.2.1\n,"); err != nil || len(got) > 0 {
		t.Errorf("of empty tables: %v, %v", got, err)
	}
	if _, err := parseIPVS("IP Virtual Server"); err == nil {
		t.Error("output that was cut off is no error")
	}
}

// A table as nft 1.0.6 tells it: elements of services have counters, those of the other maps none.
const nftTable = `{"nftables": [{"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}, {"table": {"family": "ip", "name": "shoal", "handle": 1}},
{"map": {"family": "ip", "name": "services", "table": "shoal", "type": ["ipv4_addr", "inet_proto", "inet_service"], "handle": 4, "map": "mark", "elem": [
 [{"elem": {"val": {"concat": ["10.96.0.7", 6, 0]}, "counter": {"packets": 7, "bytes": 420}}}, 1],
 [{"elem": {"val": {"concat": ["10.96.0.7", 132, 0]}, "counter": {"packets": 0, "bytes": 0}}}, 1],
 [{"concat": ["10.96.0.9", 6, 80]}, 2],
 [{"concat": ["10.96.0.11", 17, 53]}, 3],
 [{"concat": ["0.0.0.0", 6, 8080]}, 4],
 [{"concat": ["192.168.77.11", 6, 8081]}, 5]], "stmt": [{"counter": null}]}},
{"map": {"family": "ip", "name": "balancers", "table": "shoal", "type": "mark", "handle": 9, "map": "verdict", "elem": [[1, {"goto": {"target": "rr-2"}}], [2, {"goto": {"target": "refuse"}}]]}},
{"map": {"family": "ip", "name": "slots", "table": "shoal", "type": ["ipv4_addr", "inet_proto", "inet_service", "mark"], "handle": 5, "map": "ipv4_addr . inet_service", "elem": [
 [{"concat": ["10.96.0.7", 6, 0, 0]}, {"concat": ["10.244.1.2", 0]}],
 [{"concat": ["10.96.0.7", 6, 0, 1]}, {"concat": ["10.244.0.2", 0]}],
 [{"concat": ["10.96.0.7", 6, 0, 2]}, {"concat": ["10.244.0.2", 0]}],
 [{"concat": ["10.96.0.8", 6, 0, 0]}, {"concat": ["10.244.0.7", 0]}],
 [{"concat": ["10.96.0.11", 17, 53, 0]}, {"concat": ["10.244.1.1", 0]}],
 [{"concat": ["0.0.0.0", 6, 8080, 0]}, {"concat": ["10.244.0.2", 8000]}],
 [{"concat": ["0.0.0.0", 6, 8081, 0]}, {"concat": ["10.244.0.3", 8000]}]]}},
{"map": {"family": "ip", "name": "backends", "table": "shoal", "type": ["ipv4_addr", "inet_proto", "inet_service", "ipv4_addr", "inet_service"], "handle": 6, "map": "mark", "elem": [
 [{"concat": ["10.96.0.7", 6, 0, "10.244.1.2", 0]}, 1],
 [{"concat": ["10.96.0.7", 6, 0, "10.244.0.2", 0]}, 2],
 [{"concat": ["10.96.0.7", 6, 0, "10.244.2.2", 0]}, 1],
 [{"concat": ["0.0.0.0", 6, 8080, "10.244.0.2", 8000]}, 1]]}},
{"map": {"family": "ip", "name": "affinity", "table": "shoal", "type": ["ipv4_addr", "ipv4_addr", "inet_proto", "inet_service"], "handle": 8, "map": "ipv4_addr . inet_service", "flags": ["timeout", "dynamic"], "elem": [
 [{"elem": {"val": {"concat": ["10.244.0.5", "10.96.0.7", 6, 0]}, "timeout": 600, "expires": 599}}, {"concat": ["10.244.0.2", 0]}]]}},
{"set": {"family": "ip", "name": "tasks", "table": "shoal", "type": "ipv4_addr", "handle": 7, "elem": ["10.244.0.2"]}},
{"chain": {"family": "ip", "table": "shoal", "name": "rr-2", "handle": 1}}]}`

func TestFrontendsOfNFTables(t *testing.T) {
	got, err := parseNFTables(nftTable)
	want := []Frontend{ // by key
		{true, "", []Backend{backend("10.244.0.2:8000", 1)}},
		{true, "", []Backend{backend("10.244.0.3:8000", 1)}},
		{false, "", []Backend{backend("10.244.0.2:0", 2), backend("10.244.1.2:0", 1), backend("10.244.2.2:0", 0)}},
		{false, "", []Backend{backend("10.244.0.7:0", 0)}}, // which nothing leads to
		{false, "", []Backend{backend("10.244.1.1:53", 1)}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if got, want := RealServers(got, false), []string{"10.244.0.2", "10.244.1.2"}; !slices.Equal(got, want) {
		t.Errorf("VIPs have %v, want %v", got, want)
	}
	if got, want := RealServers(got, true), []string{"10.244.0.2", "10.244.0.3"}; !slices.Equal(got, want) {
		t.Errorf("published ports have %v, want %v", got, want)
	}
	if got, err := parseNFTables(""); err != nil || len(got) > 0 {
		t.Errorf("without a table: %v, %v", got, err)
	}
	for _, wrong := range []string{nftTable[:900], `{"nftables": [{"map": {"name": "slots", "elem": [["x", "y"]]}}]}`,
		`{"nftables": [{"map": {"name": "services", "elem": [[{"concat": ["here", 6, 80]}, "y"]]}}]}`} {
		if got, err := parseNFTables(wrong); err == nil {
			t.Errorf("%.80s: no error, but %v", wrong, got)
		}
	}
}

func TestConnections(t *testing.T) {
	const ipvs = `IPVS connection entries
pro expire state       source             virtual            destination
TCP 14:58  ESTABLISHED 10.244.0.5:40000   10.96.0.7:8000     10.244.0.2:8000
TCP 01:58  TIME_WAIT   10.244.0.5:40001   10.96.0.7:8000     10.244.0.2:8000
TCP 14:58  ESTABLISHED 10.244.0.2:40000   10.96.0.7:8000     10.244.0.20:8000
UDP 04:59  UDP         10.244.0.5:40000   10.96.0.7:9000     10.244.0.2:9000
`
	const conntrack = `tcp      6 431999 ESTABLISHED src=10.244.0.5 dst=10.96.0.7 sport=40000 dport=8000 src=10.244.0.2 dst=10.244.0.5 sport=8000 dport=40000 [ASSURED] mark=0 use=1
tcp      6 119 TIME_WAIT src=10.244.0.5 dst=10.96.0.7 sport=40001 dport=8000 src=10.244.0.2 dst=10.244.0.5 sport=8000 dport=40001 [ASSURED] mark=0 use=1
tcp      6 431999 ESTABLISHED src=10.244.0.5 dst=10.244.0.2 sport=40002 dport=8000 src=10.244.0.2 dst=10.244.0.5 sport=8000 dport=40002 [ASSURED] mark=0 use=1
`
	const flows = `udp      17 29 src=10.244.0.5 dst=10.96.0.7 sport=40000 dport=9000 [UNREPLIED] src=10.244.0.2 dst=10.244.0.5 sport=9000 dport=40000 mark=0 use=1
`
	task := netip.MustParseAddr("10.244.0.2")
	for what, n := range map[string]int{
		"TCP in IPVS":      countIPVS(ipvs, "tcp", task),
		"UDP in IPVS":      countIPVS(ipvs, "udp", task),
		"TCP in conntrack": countConntrack(conntrack, "tcp", task),
		"UDP in conntrack": countConntrack(flows, "udp", task),
	} {
		if n != 1 {
			t.Errorf("%s: %d, want 1", what, n)
		}
	}
}
