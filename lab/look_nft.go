package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// nftScript prints shoal's table, if there is one, and, after a comma, the host's addresses.
const nftScript = `tables=$(nft list tables ip) || exit
case "$tables" in *"table ip shoal"*) nft -j -n list table ip shoal || exit ;; esac
echo
echo ,
ip -j -4 address`

// parseNFTables reads these maps of the table, in which a key is an address, a protocol and a port:
//
//	services  key: what to do
//	slots     key, number: the task's address and port, once or as often as its weight says
//	backends  key, the task's address and port: its weight
//
// Port 0 of a key is every port that the address has no key of its own for, port 0 of a task the packet's own.
func parseNFTables(out string) ([]Frontend, error) {
	table, addresses, ok := strings.Cut("\n"+out, "\n,")
	if !ok {
		return nil, errTwoParts
	}
	own, err := parseAddresses(addresses)
	if err != nil {
		return nil, err
	}
	maps, err := parseMaps(table)
	if err != nil {
		return nil, err
	}
	weights := map[nftKey]map[netip.AddrPort]int{}
	slots := map[nftKey]map[netip.AddrPort]int{} // how many a task has
	count := func(in map[nftKey]map[netip.AddrPort]int, k nftKey, task netip.AddrPort, n int) {
		if in[k] == nil {
			in[k] = map[netip.AddrPort]int{}
		}
		in[k][task] += n
	}
	keys := map[nftKey]bool{}
	for _, e := range maps["services"] {
		k, err := e.frontend()
		if err != nil {
			return nil, err
		}
		keys[k] = true
	}
	for _, e := range maps["slots"] {
		k, err := e.frontend()
		if err != nil {
			return nil, err
		}
		task, err := e.value.addrPort(0)
		if err != nil {
			return nil, err
		}
		keys[k] = true
		count(slots, k, task, 1)
	}
	for _, e := range maps["backends"] {
		k, err := e.frontend()
		if err != nil {
			return nil, err
		}
		task, err := e.key.addrPort(3)
		if err != nil {
			return nil, err
		}
		weight, err := e.value.number(0)
		if err != nil {
			return nil, err
		}
		keys[k] = true
		count(weights, k, task, weight)
	}
	var all []Frontend
	for _, k := range sortedKeys(keys) {
		f := Frontend{Published: k.addr.IsUnspecified() || k.addr.IsLoopback() || own[k.addr]}
		for task := range slots[k] {
			weight := weights[k][task]
			if weight == 0 {
				weight = slots[k][task]
			}
			f.Backends = append(f.Backends, Backend{task, weight})
		}
		for task := range weights[k] {
			if slots[k][task] == 0 {
				f.Backends = append(f.Backends, Backend{task, 0})
			}
		}
		for i, b := range f.Backends {
			if b.Addr.Port() == 0 {
				f.Backends[i].Addr = netip.AddrPortFrom(b.Addr.Addr(), k.port)
			}
		}
		sortBackends(f.Backends)
		all = append(all, f)
	}
	return all, nil
}

// nftKey is a frontend's: address, protocol (as nft tells it) and port.
type nftKey struct {
	addr  netip.Addr
	proto string
	port  uint16
}

func sortedKeys(set map[nftKey]bool) []nftKey {
	var all []nftKey
	for k := range set {
		all = append(all, k)
	}
	slices.SortFunc(all, func(a, b nftKey) int {
		return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port))
	})
	return all
}

// element is one of a map's: a key and a value, each of one part or of several.
type element struct{ key, value parts }

// frontend is the frontend that the key begins with.
func (e element) frontend() (k nftKey, err error) {
	task, err := parts(slices.Concat(e.key[:min(1, len(e.key))], e.key[min(2, len(e.key)):])).addrPort(0)
	if err != nil {
		return k, err
	}
	return nftKey{task.Addr(), string(e.key[1]), task.Port()}, nil
}

// parts are those of a key or a value, as JSON.
type parts []json.RawMessage

// UnmarshalJSON reads one part, or several in {"concat": [...]}, either alone or, where an element has more to it than its
// key, a counter for one, in {"elem": {"val": ...}}.
func (p *parts) UnmarshalJSON(b []byte) error {
	var object struct {
		Concat []json.RawMessage
		Elem   struct{ Val parts }
	}
	if json.Unmarshal(b, &object) == nil {
		if object.Elem.Val != nil {
			*p = object.Elem.Val
			return nil
		}
		if object.Concat != nil {
			*p = object.Concat
			return nil
		}
	}
	*p = parts{slices.Clone(b)}
	return nil
}

// number is the i-th part as a number.
func (p parts) number(i int) (n int, err error) {
	if i >= len(p) {
		return 0, fmt.Errorf("%s has no part %d", p, i)
	}
	if err := json.Unmarshal(p[i], &n); err != nil {
		return 0, fmt.Errorf("part %d of %s: %w", i, p, err)
	}
	return n, nil
}

// addrPort is an address in the i-th part and a port in the next.
func (p parts) addrPort(i int) (a netip.AddrPort, err error) {
	port, err := p.number(i + 1)
	if err != nil {
		return a, err
	}
	var addr netip.Addr
	if err := json.Unmarshal(p[i], &addr); err != nil {
		return a, fmt.Errorf("part %d of %s: %w", i, p, err)
	}
	return netip.AddrPortFrom(addr, uint16(port)), nil
}

// parseMaps reads the elements of a table's maps, by name, from what nft -j says. Of no table there are none.
func parseMaps(table string) (map[string][]element, error) {
	if strings.TrimSpace(table) == "" {
		return nil, nil
	}
	var ruleset struct {
		NFTables []struct {
			Map *struct {
				Name string
				Elem [][2]parts
			}
		}
	}
	if err := json.Unmarshal([]byte(table), &ruleset); err != nil {
		return nil, fmt.Errorf("nft said %q: %w", table, err)
	}
	maps := map[string][]element{}
	for _, object := range ruleset.NFTables {
		if object.Map != nil {
			for _, e := range object.Map.Elem {
				maps[object.Map.Name] = append(maps[object.Map.Name], element{e[0], e[1]})
			}
		}
	}
	return maps, nil
}

// parseAddresses reads what ip -j -4 address says.
func parseAddresses(text string) (map[netip.Addr]bool, error) {
	var links []struct {
		Addrs []struct{ Local netip.Addr } `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(text), &links); err != nil {
		return nil, fmt.Errorf("ip said %q: %w", text, err)
	}
	own := map[netip.Addr]bool{}
	for _, link := range links {
		for _, a := range link.Addrs {
			own[a.Local] = true
		}
	}
	return own, nil
}

// countConntrack counts connections in what conntrack -L says: those whose replies come from the task, though they were
// made to another address, and that are established where the protocol has states.
func countConntrack(list, proto string, task netip.Addr) (n int) {
	for line := range strings.Lines(list) {
		var to, from []string // of the connection as it was made, and of its replies
		for f := range strings.FieldsSeq(line) {
			if v, ok := strings.CutPrefix(f, "dst="); ok {
				to = append(to, v)
			} else if v, ok := strings.CutPrefix(f, "src="); ok {
				from = append(from, v)
			}
		}
		if len(to) == 2 && len(from) == 2 && to[0] != task.String() && from[1] == task.String() &&
			(proto != "tcp" || strings.Contains(line, " ESTABLISHED ")) {
			n++
		}
	}
	return n
}
