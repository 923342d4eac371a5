package nft

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"shoal/lb"
	"shoal/model"
)

// form is how the key of a frontend is made of a packet.
type form string

const (
	ofPort      form = "port"      // a named port of a VIP: address, protocol and port of the packet
	ofTCP       form = "tcp"       // every other TCP and SCTP port of a VIP
	ofUDP       form = "udp"       // every other UDP port
	ofPublished form = "published" // a published port, on whichever address of the host
)

func formOf(k lb.Key) form {
	switch {
	case k.Published():
		return ofPublished
	case k.Port != 0:
		return ofPort
	case k.Protocol == model.UDP:
		return ofUDP
	}
	return ofTCP
}

// balancer is a chain that chooses a backend. All frontends of one form,
// scheduler, number of slots and affinity could share it. But a chain that takes
// slots in turn has one counter: two services that a client calls in turn would
// each have every second slot. So where slots are taken in turn a frontend has
// one of the chain's lanes for itself, while there are any, and those beyond
// share one that takes slots at random.
type balancer struct {
	form      form
	scheduler string // "" of one that refuses
	slots     int
	lane      int           // from 1; 0: none
	affinity  time.Duration // whole seconds; 0: none
}

// lanes is how many there are for frontends that are alike.
const lanes = 64

// fewSlots is how many slots there may be for a change to make a lane, and to remove
// a balancer that it leaves without users: for each chain that begins to use a map
// the kernel walks through all of the map (nf_tables_bind_set), 45 ms at a hundred
// thousand entries. Where all is written anew lanes are made all the same: at a start
// there is nothing in the map.
const fewSlots = 10_000

// closed is of frontends that have no live backend: what is sent there keeps its
// destination, and is refused by the rules for input.
func closed(f form) balancer {
	if f != ofPublished {
		f = ofPort
	}
	return balancer{form: f}
}

// inTurn tells whether slots are taken in turn, where there are several.
func (b balancer) inTurn() bool {
	return b.slots > 1 && (b.scheduler == "rr" || b.scheduler == "wrr")
}

// chain is the name of the balancer's chain, which tells all about it:
// "tcp-rr-3-lane-7", "published-sh-251-affinity-60", "port-closed".
func (b balancer) chain() string {
	if b.scheduler == "" {
		return string(b.form) + "-closed"
	}
	name := fmt.Sprintf("%s-%s-%d", b.form, b.scheduler, b.slots)
	if b.lane > 0 {
		name += fmt.Sprintf("-lane-%d", b.lane)
	}
	if b.affinity > 0 {
		name += fmt.Sprintf("-affinity-%d", b.affinity/time.Second)
	}
	return name
}

// parseBalancer reads the name of a chain; false: it is no balancer's.
func parseBalancer(name string) (b balancer, ok bool) {
	words := strings.Split(name, "-")
	b.form = form(words[0])
	switch b.form {
	case ofPort, ofTCP, ofUDP, ofPublished:
	default:
		return b, false
	}
	if len(words) == 2 && words[1] == "closed" {
		return b, true
	}
	if len(words) < 3 || len(words)%2 == 0 {
		return b, false
	}
	b.scheduler = words[1]
	var err error
	if b.slots, err = strconv.Atoi(words[2]); err != nil {
		return b, false
	}
	for i := 3; i < len(words); i += 2 {
		n, err := strconv.Atoi(words[i+1])
		switch {
		case err != nil:
			return b, false
		case words[i] == "lane":
			b.lane = n
		case words[i] == "affinity":
			b.affinity = time.Duration(n) * time.Second
		default:
			return b, false
		}
	}
	return b, b.chain() == name
}

// choose loads the number of a slot.
func (b balancer) choose(reg uint32) does {
	switch b.scheduler {
	case "sh", "mh":
		return append(source(reg), b.hash(reg))
	case "dh":
		return append(dest(reg), b.hash(reg))
	}
	switch {
	case b.slots < 2:
		return value(reg, u32(0))
	case b.lane > 0:
		return does{&expr.Numgen{Register: reg, Modulus: uint32(b.slots), Type: unix.NFT_NG_INCREMENTAL}}
	}
	return does{&expr.Numgen{Register: reg, Modulus: uint32(b.slots), Type: unix.NFT_NG_RANDOM}}
}

// hashSeed is the same on every host, so that a client has the same backend
// wherever it comes in.
const hashSeed = 0x5348414c

func (b balancer) hash(reg uint32) expr.Any {
	return &expr.Hash{SourceRegister: reg, DestRegister: reg, Length: 4, Modulus: uint32(b.slots), Seed: hashSeed, Type: expr.HashTypeJenkins}
}

// everyAddress is 0.0.0.0.
var everyAddress = make([]byte, 4)

// frontend loads the key of the frontend.
func (b balancer) frontend(reg uint32) does {
	switch b.form {
	case ofTCP, ofUDP:
		p := byte(model.TCP)
		if b.form == ofUDP {
			p = byte(model.UDP)
		}
		return append(append(dest(reg), value(reg+1, []byte{p})...), value(reg+2, be16(0))...)
	case ofPublished:
		return append(append(value(reg, everyAddress), protocol(reg+1)...), toPort(reg+2)...)
	}
	return frontendOf(reg)
}

// send sends the connection to the backend in two registers.
func (b balancer) send(reg uint32) does {
	switch b.form {
	case ofTCP, ofUDP:
		return dnat(reg, 0) // the port is the packet's own
	case ofPublished:
		return append(setConnMark(lb.ConnMark, lb.MarkMask), dnat(reg, reg+1)...)
	}
	return dnat(reg, reg+1)
}

// rules choose a slot, look the backend up, and send the connection there.
func (b balancer) rules() []rule {
	if b.scheduler == "" {
		return []rule{on("refused later", keepDest)}
	}
	if b.affinity == 0 {
		return []rule{on("choose", b.frontend(r1), b.choose(r4), lookUp(r1, slots, r5), b.send(r5))}
	}
	record := func(op uint32) *expr.Dynset {
		d := &expr.Dynset{SrcRegKey: r0, SrcRegData: r4, SetName: affinity.name, Operation: op}
		if op == unix.NFT_DYNSET_OP_UPDATE {
			d.Timeout = b.affinity
		}
		return d
	}
	update, forget := does{record(unix.NFT_DYNSET_OP_UPDATE)}, does{record(dynsetDelete)}
	client := append(source(r0), b.frontend(r1)...)
	chosen := append(append(append(b.choose(r4), lookUp(r1, ids, r4)...), visible(r4)...), lookUp(r1, slots, r5)...)
	return []rule{
		on("the client's backend, while it takes connections", client, lookUp(r0, affinity, r4), visible(r4), lookUp(r1, slots, r5), update, b.send(r5)),
		on("choose, and remember", client, chosen, forget, update, b.send(r5)),
		on("no room to remember", client, chosen, b.send(r5)),
	}
}

// dynsetDelete takes an entry out of a set (NFT_DYNSET_OP_DELETE): an update
// would leave another backend as it is.
const dynsetDelete = 2

// pool hands out balancers and their numbers.
type pool struct {
	numbers map[balancer]uint16
	users   map[balancer]int
	taken   map[uint16]bool
	former  map[balancer]uint16 // numbers that are used again, if they are free
	slots   int                 // of all frontends
}

func newPool() *pool {
	return &pool{numbers: map[balancer]uint16{}, users: map[balancer]int{}, taken: map[uint16]bool{}}
}

// adopt takes in a balancer that the kernel has.
func (p *pool) adopt(b balancer, number uint16) {
	p.numbers[b] = number
	p.taken[number] = true
}

// use counts the users of a balancer; one that is new is given a number.
func (p *pool) use(b balancer, n int) {
	p.users[b] += n
	if _, has := p.numbers[b]; !has {
		number, had := p.former[b]
		if !had || p.taken[number] {
			number = 1
			for p.taken[number] {
				number++
			}
		}
		p.adopt(b, number)
	}
}

// numbered is a balancer and its number.
type numbered struct {
	balancer
	number uint16
}

// unused drops the balancers that nobody uses, unless there are many slots.
func (p *pool) unused() (gone []numbered) {
	if p.slots > fewSlots {
		return nil
	}
	for b, n := range p.numbers {
		if p.users[b] == 0 {
			gone = append(gone, numbered{b, n})
			delete(p.numbers, b)
			delete(p.users, b)
			delete(p.taken, n)
		}
	}
	return gone
}

// pick is the balancer for a frontend that has that one now: the same, if it
// will do. Whole is whether all is written anew.
func (p *pool) pick(f *lb.Frontend, slots int, now balancer, whole bool) balancer {
	b := balancer{form: formOf(f.Key), scheduler: scheduler(f.Scheduler), slots: slots, affinity: f.Affinity}
	if slots == 0 {
		return closed(b.form)
	}
	if !b.inTurn() {
		return b
	}
	b.lane = now.lane
	if b == now {
		return now
	}
	mayMake := whole || p.slots <= fewSlots
	for b.lane = 1; b.lane <= lanes; b.lane++ {
		if _, made := p.numbers[b]; p.users[b] == 0 && (made || mayMake) {
			return b
		}
	}
	b.lane = 0
	return b
}

// backendKey is a key of the map backends, and what it stands for.
func backendKey(k lb.Key, b lb.Backend) []byte {
	return append(frontendKey(k), endpointOf(b)...)
}

// frontendKey is the key of a frontend in slots and backends.
func frontendKey(k lb.Key) []byte {
	a := [4]byte{}
	if !k.Published() {
		a = k.VIP.As4()
	}
	return entryKey(a, byte(k.Protocol), k.Port)
}

func entryKey(a [4]byte, protocol byte, port uint16) []byte {
	b := append(a[:], protocol, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, port)
	return append(b, 0, 0)
}

func endpointOf(b lb.Backend) []byte {
	a := b.Addr.Addr().As4()
	return append(binary.BigEndian.AppendUint16(a[:], b.Addr.Port()), 0, 0)
}
