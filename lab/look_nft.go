package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// nftScript prints shoal's table, if there is one.
const nftScript = `tables=$(nft list tables ip) || exit
case "$tables" in *"table ip shoal"*) nft -j -n list table ip shoal ;; esac`

// parseNFTables reads these maps of the table:
//
//	services  key: the balancer that the packets to it meet
//	slots     key, number: the task's address and port, once or as often as its weight says
//	backends  key, the task's address and port: its weight
//
// A key is an address, a protocol and a port: 0.0.0.0 for a published port, port 0 for every port that a VIP has no key of its
// own for. Packets to a published port may be led there by the keys of single addresses. A task's port 0 is the packet's own.
func parseNFTables(out string) ([]Frontend, error) {
	table, err := parseMaps(out)
	if err != nil {
		return nil, err
	}
	led, weights, slots := map[nftKey]bool{}, counts{}, counts{}
	for _, e := range table["services"] {
		k, err := e.frontend()
		if err != nil {
			return nil, err
		}
		led[k] = true
	}
	for _, e := range table["slots"] {
		k, err := e.frontend()
		if err != nil {
			return nil, err
		}
		task, err := e.value.addrPort(0)
		if err != nil {
			return nil, err
		}
		slots.add(k, task, 1)
	}
	for _, e := range table["backends"] {
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
		weights.add(k, task, weight)
	}
	var all []Frontend
	for _, k := range frontendKeys(slots, weights) {
		f := Frontend{Published: k.addr.IsUnspecified()}
		reached := k.ledTo(led)
		tasks := maps.Clone(weights[k])
		if tasks == nil {
			tasks = map[netip.AddrPort]int{}
		}
		for task, n := range slots[k] {
			tasks[task] = cmp.Or(tasks[task], n)
		}
		for task, weight := range tasks {
			if slots[k][task] == 0 || !reached {
				weight = 0
			}
			if task.Port() == 0 {
				task = netip.AddrPortFrom(task.Addr(), k.port)
			}
			f.Backends = append(f.Backends, Backend{task, weight})
		}
		sortBackends(f.Backends)
		all = append(all, f)
	}
	return all, nil
}

// counts has a number for each task of each frontend.
type counts map[nftKey]map[netip.AddrPort]int

func (c counts) add(k nftKey, task netip.AddrPort, n int) {
	if c[k] == nil {
		c[k] = map[netip.AddrPort]int{}
	}
	c[k][task] += n
}

// nftKey is a frontend's: address, protocol (as nft tells it) and port.
type nftKey struct {
	addr  netip.Addr
	proto string
	port  uint16
}

// ledTo says whether packets are led to the frontend, by keys of services.
func (k nftKey) ledTo(led map[nftKey]bool) bool {
	if led[k] {
		return true
	}
	for s := range led {
		if k.addr.IsUnspecified() && s.proto == k.proto && s.port == k.port {
			return true
		}
	}
	return false
}

// frontendKeys are the keys of either, in order.
func frontendKeys(a, b counts) []nftKey {
	all := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.SortFunc(all, func(a, b nftKey) int {
		return cmp.Or(a.addr.Compare(b.addr), strings.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port))
	})
	return slices.Compact(all)
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
	elements := map[string][]element{}
	for _, object := range ruleset.NFTables {
		if object.Map != nil {
			for _, e := range object.Map.Elem {
				elements[object.Map.Name] = append(elements[object.Map.Name], element{e[0], e[1]})
			}
		}
	}
	return elements, nil
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
