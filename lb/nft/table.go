package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
)

// tableName is the one table, of family ip.
const tableName = "shoal"

var table = &nftables.Table{Name: tableName, Family: nftables.TableFamilyIPv4}

// set is a set or a map of the table.
type set struct {
	name      string
	key, data []nftables.SetDatatype // data: none of a set
	interval  bool                   // entries are ranges
	counter   bool                   // entries count packets
	timeout   bool                   // packets put entries in, which expire
}

var (
	addr    = nftables.TypeIPAddr
	proto   = nftables.TypeInetProto
	port    = nftables.TypeInetService
	number  = nftables.TypeMark        // 32 bits in the host's order
	small   = nftables.TypeInetService // a number up to 65,535, which nft prints as it is only as a port
	device  = nftables.TypeIFName
	mac     = nftables.TypeEtherAddr
	verdict = nftables.TypeVerdict
)

func types(ts ...nftables.SetDatatype) []nftables.SetDatatype { return ts }

// The sets and maps. A frontend's key is its address, protocol and port: 0.0.0.0
// of a published port, port 0 of all ports, with protocol 6 for SCTP too.
var (
	// What frontends are made of.
	services  = &set{name: "services", key: types(addr, proto, port), data: types(small), counter: true}      // where clients connect to -> balancer
	balancers = &set{name: "balancers", key: types(small), data: types(verdict)}                              // balancer -> its chain
	slots     = &set{name: "slots", key: types(addr, proto, port, number), data: types(addr, port)}           // frontend, slot -> backend
	backends  = &set{name: "backends", key: types(addr, proto, port, addr, port), data: types(small)}         // frontend, backend -> weight
	ids       = &set{name: "ids", key: types(addr, proto, port, number), data: types(number)}                 // frontend with affinity, slot -> number of a backend, by which slots has it
	affinity  = &set{name: "affinity", key: types(addr, addr, proto, port), data: types(addr), timeout: true} // client, frontend -> name of a backend

	// What depends on frontends and tasks.
	vips    = &set{name: "vips", key: types(addr)}                 // addresses of the pool that answer ping
	refused = &set{name: "refused", key: types(addr, proto, port)} // published ports without a live backend
	targets = &set{name: "targets", key: types(addr, proto, port)} // where this host's tasks of published ports are reached
	tasks   = &set{name: "tasks", key: types(addr)}                // addresses of all tasks
	local   = &set{name: "local", key: types(addr)}                // of this host's tasks
	hairpin = &set{name: "hairpin", key: types(addr, addr)}        // (task, task) of each on this host
	resting = &set{name: "resting", key: types(addr)}              // that this host's tasks had until just now

	// What depends on hosts and networks.
	bridges   = &set{name: "bridges", key: types(device, addr), interval: true}    // this host's container networks, each by way of its bridge
	nets      = &set{name: "networks", key: types(addr), interval: true}           // this host's container networks
	inside    = &set{name: "inside", key: types(addr), interval: true}             // who is inside the cluster
	cluster   = &set{name: "cluster", key: types(addr), interval: true}            // who may ask this host's DNS server
	macs      = &set{name: "peer-macs", key: types(mac)}                           // other hosts, as senders on the link
	senders   = &set{name: "senders", key: types(mac), data: types(verdict)}       // likewise -> chain that gives their mark to the connection
	zones     = &set{name: "peer-zones", key: types(mac), data: types(small)}      // likewise -> conntrack zone
	inners    = &set{name: "tunnel-zones", key: types(number), data: types(small)} // mark of what is inside IP in IP -> conntrack zone
	outers    = &set{name: "peer-tunnels", key: types(addr), data: types(number)}  // sender of IP in IP -> mark of what is inside
	origins   = &set{name: "origins", key: types(number), data: types(verdict)}    // mark -> chain that gives it to the connection
	replies   = &set{name: "replies", key: types(number), data: types(verdict)}    // mark of a connection -> chain that marks its replies
	links     = &set{name: "links", key: types(device, addr), interval: true}      // which sources come in by which device
	remote    = &set{name: "remote-networks", key: types(addr), interval: true}    // of other hosts' containers
	trusted   = &set{name: "trusted", key: types(addr)}                            // hosts of the cluster, whom this one's agent speaks to
	hosts     = &set{name: "hosts", key: types(addr)}                              // other hosts, who may send tunnel packets
	hostAddrs = &set{name: "host-addresses", key: types(addr)}                     // all that other hosts send from themselves

	// sets is all of them, in the order in which entries are put; they are removed
	// in the reverse order. So a service that packets find has its slots.
	sets = []*set{resting, bridges, nets, inside, cluster, links, remote, hosts, hostAddrs, trusted, origins, replies, macs, senders, zones, inners, outers,
		tasks, local, hairpin, targets, affinity, balancers, slots, ids, backends, refused, services, vips}
	setNamed = func() map[string]*set {
		m := map[string]*set{}
		for _, s := range sets {
			m[s.name] = s
		}
		return m
	}()
)

// maxAffinity is the most entries of affinity that there can be at a time: the
// kernel makes room for them all beforehand. A client beyond that is served as
// if its service had none.
const maxAffinity = 1 << 17

func (s *set) isMap() bool     { return len(s.data) > 0 }
func (s *set) isVerdict() bool { return len(s.data) == 1 && s.data[0].Name == verdict.Name }

// concatenated ranges are kept as pairs of keys; other ranges as two entries.
func (s *set) concatenated() bool { return s.interval && len(s.key) > 1 }

// definition is the set in the words of the library.
func (s *set) definition() *nftables.Set {
	d := &nftables.Set{
		Table: table, Name: s.name, KeyType: nftables.MustConcatSetType(s.key...), IsMap: s.isMap(),
		Interval: s.interval, Concatenation: len(s.key) > 1, Counter: s.counter,
		Dynamic: s.timeout, HasTimeout: s.timeout,
	}
	if len(s.key) == 1 {
		d.KeyType = s.key[0]
	}
	if d.KeyType.Name == number.Name {
		d.KeyByteOrder = binaryutil.NativeEndian
	}
	switch {
	case s.isVerdict():
		d.DataType = verdict
	case len(s.data) == 1:
		d.DataType = s.data[0]
	case s.isMap():
		d.DataType = nftables.MustConcatSetType(s.data...)
	}
	if s.timeout {
		d.Size = maxAffinity
	}
	return d
}

// same tells whether a set as it was read is this one.
func (s *set) same(have *nftables.Set) bool {
	d := s.definition()
	return have.IsMap == d.IsMap && have.Interval == d.Interval && have.HasTimeout == d.HasTimeout &&
		(s.isVerdict() || have.KeyType.Bytes == d.KeyType.Bytes && have.DataType.Bytes == d.DataType.Bytes)
}
