package dnsd

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"shoal/internal/cow"
	"shoal/model"
)

// rrset is the packed answer to one name and type: whole records, each with
// a pointer to the question in place of its owner. Empty is NODATA.
type rrset struct {
	records []byte
	extra   []byte // for the additional section, with owners spelled out
	n       int32  // records in it
	nextra  uint8  // records in extra, up to maxExtra
	mixed   bool   // records of several sizes: sent whole or not at all, in this order
}

// service is the packed answers of one service. It is shared by all
// consecutive tables in which the service has not changed, and immutable but
// for its first field.
type service struct {
	// of is the service in the newest Snapshot, for the one who builds tables.
	// It moves on with each, or it would keep an old Snapshot in memory.
	of *model.Service

	idle   bool // it has no tasks
	public bool // outside of the zone its name is the Internet's: see [publicStack]

	addrs    [2]rrset          // of NAME: A, AAAA
	tasks    [2]rrset          // of tasks.NAME: A, AAAA
	srv      map[string]*rrset // of "\5_http\4_tcp"; of "\4_tcp" without records
	vip      netip.Addr
	ptrVIP   rrset
	ptrTasks rrset // of each address in listed
	listed   []netip.Addr
}

// table is the prepared answers of one Snapshot. It is immutable, and shares with
// the one before it what did not change.
type table struct {
	snap     *model.Snapshot
	allowed  *acl
	flat     bool                      // see [Options.FlatNames]
	services cow.Map[string, *service] // by "\3web\4shop"
	named    cow.Map[string, named]    // by "\3web"
	stacks   cow.Map[string, int]      // by "\4shop": how many services it has
	ptr      cow.Map[netip.Addr, *names]
	public   int // services with tasks whose names are the Internet's outside of the zone

	soa       []byte // one record; the owner, its first two octets, is to be set
	apexSOA   rrset
	apexNS    rrset
	apexAddrs [2]rrset // A, AAAA
}

// named is what a name is in any stack.
type named struct {
	all     []*service // by stack
	one     *service   // of those that have tasks, if any have
	several bool       // there are others like it
}

// newNamed is what a name is that these services have.
func newNamed(all []*service) (n named) {
	n.all = all
	for _, s := range all {
		switch {
		case n.one == nil, n.one.idle && !s.idle:
			n.one, n.several = s, false
		case n.one.idle == s.idle:
			n.several = true
		}
	}
	return n
}

// names are what the name of an address is.
type names struct {
	all []*service // that have it, by ID
	set *rrset
}

// maxPTR bounds the names one address has (a host-network address may be
// that of every service).
const maxPTR = 16

var noData rrset

// buildTable prepares the answers of a Snapshot. What has not changed since
// old, which may be nil, is taken over from it: where the Snapshot says what
// changed, nothing else is looked at.
func buildTable(o *Options, z *zone, snap *model.Snapshot, old *table) *table {
	if old == nil {
		old = new(table)
	}
	t := &table{snap: snap, allowed: newACL(o, snap, old.allowed), flat: o.FlatNames}
	t.packApex(o, z)
	e := editor{
		o: o, z: z,
		services: old.services.Edit(), named: old.named.Edit(), stacks: old.stacks.Edit(), ptr: old.ptr.Edit(), public: old.public,
	}
	ids, known := snap.ServicesSince(old.snap)
	if !known {
		for _, s := range old.services.All() {
			if _, there := snap.Service(s.of.ID); !there {
				e.put(s.of.ID, nil)
			}
		}
		for _, svc := range snap.Services {
			e.put(svc.ID, svc)
		}
	}
	for _, id := range ids {
		svc, _ := snap.Service(id)
		e.put(id, svc)
	}
	t.services, t.named, t.stacks, t.ptr = e.services.Map(), e.named.Map(), e.stacks.Map(), e.ptr.Map()
	t.public = e.public
	return t
}

// editor makes a table of the one before it.
type editor struct {
	o *Options
	z *zone

	services *cow.Editor[string, *service]
	named    *cow.Editor[string, named]
	stacks   *cow.Editor[string, int]
	ptr      *cow.Editor[netip.Addr, *names]
	public   int
}

// put makes a service what it is in the Snapshot; nil: it is gone.
func (e *editor) put(id model.ServiceID, svc *model.Service) {
	label := string(appendLabel(nil, id.Name))
	stack := string(appendLabel(nil, id.Stack))
	was, _ := e.services.Get(label + stack)
	var is *service
	switch {
	case svc == nil && was == nil:
		return
	case svc == nil:
		e.services.Delete(label + stack)
	case was != nil && sameAnswers(was.of, svc):
		was.of = svc
		return
	default:
		is = packService(e.o, e.z, svc)
		e.services.Set(label+stack, is)
	}
	e.public += is.publicNames() - was.publicNames()
	n, _ := e.named.Get(label)
	if all := replaced(n.all, was, is); len(all) > 0 {
		e.named.Set(label, newNamed(all))
	} else {
		e.named.Delete(label)
	}
	in, _ := e.stacks.Get(stack)
	switch {
	case was == nil:
		e.stacks.Set(stack, in+1)
	case is == nil && in == 1:
		e.stacks.Delete(stack)
	case is == nil:
		e.stacks.Set(stack, in-1)
	}
	e.name(was, is)
}

// name gives the addresses of a service its name, in place of what it was.
func (e *editor) name(was, is *service) {
	addrs := append(was.named(), is.named()...)
	slices.SortFunc(addrs, netip.Addr.Compare)
	alone := map[*rrset]*names{} // of a service that shares the address with no other: one for all its tasks
	for _, a := range slices.Compact(addrs) {
		var those []*service
		if n, ok := e.ptr.Get(a); ok {
			those = n.all
		}
		old := was
		if !slices.Contains(those, was) {
			old = nil
		}
		now := is
		if is != nil && !is.has(a) {
			now = nil
		}
		all := replaced(those, old, now)
		if len(all) == 0 {
			e.ptr.Delete(a)
			continue
		}
		n := &names{all, namesOf(a, all)}
		if len(all) == 1 {
			if alone[n.set] == nil {
				alone[n.set] = n
			}
			n = alone[n.set]
		}
		e.ptr.Set(a, n)
	}
}

// publicNames is 1 for a service that [Server.Problems] tells of.
func (s *service) publicNames() int {
	if s != nil && s.public && !s.idle {
		return 1
	}
	return 0
}

// named are the addresses whose name a service is.
func (s *service) named() (addrs []netip.Addr) {
	if s == nil {
		return nil
	}
	if s.ptrVIP.n > 0 {
		addrs = append(addrs, s.vip)
	}
	return append(addrs, s.listed...)
}

func (s *service) has(a netip.Addr) bool {
	return s.ptrVIP.n > 0 && s.vip == a || slices.Contains(s.listed, a)
}

// namesOf are the names of an address that these services have.
func namesOf(a netip.Addr, all []*service) *rrset {
	var sets []*rrset
	for _, s := range all {
		if s.ptrVIP.n > 0 && s.vip == a {
			sets = append(sets, &s.ptrVIP)
		}
		if slices.Contains(s.listed, a) {
			sets = append(sets, &s.ptrTasks)
		}
	}
	if len(sets) == 1 {
		return sets[0]
	}
	several := &rrset{mixed: true}
	for _, set := range sets[:min(len(sets), maxPTR)] {
		several.records = append(several.records, set.records...)
		several.n += set.n
	}
	return several
}

// replaced is a list of services, by ID, with one in the place of another; nil: none.
func replaced(all []*service, was, is *service) []*service {
	now := make([]*service, 0, len(all)+1)
	for _, s := range all {
		if s != was {
			now = append(now, s)
		}
	}
	if is == nil {
		return now
	}
	at, _ := slices.BinarySearchFunc(now, is.of.ID, func(s *service, id model.ServiceID) int { return s.of.ID.Compare(id) })
	return slices.Insert(now, at, is)
}

// sameAnswers tells whether two versions of a service have the same names,
// addresses and ports.
func sameAnswers(a, b *model.Service) bool {
	return a == b || a.VIP == b.VIP && a.Spec.Mode == b.Spec.Mode &&
		slices.EqualFunc(a.Tasks, b.Tasks, func(x, y *model.Task) bool {
			return x.Addr == y.Addr && x.State == y.State && x.Container == y.Container &&
				x.Started.Equal(y.Started) && slices.Equal(x.Spec.Ports, y.Spec.Ports)
		})
}

// addresses are those a service's name answers with.
func addresses(svc *model.Service) []netip.Addr {
	if svc.Spec.Mode == model.ModeDNSRR {
		return taskAddrs(svc, (*model.Task).InRotation)
	}
	if svc.VIP.IsValid() {
		return []netip.Addr{svc.VIP}
	}
	return nil
}

// taskAddrs are the addresses of those tasks, each once.
func taskAddrs(svc *model.Service, which func(*model.Task) bool) []netip.Addr {
	as := make([]netip.Addr, 0, len(svc.Tasks))
	for _, t := range svc.Tasks {
		if which(t) && t.Addr.IsValid() {
			as = append(as, t.Addr)
		}
	}
	slices.SortFunc(as, netip.Addr.Compare)
	return slices.Compact(as)
}

// namedPort is a port with a name, as SRV tells it.
type namedPort struct {
	port     uint16
	sub      string // "\5_http\4_tcp"
	protocol string // "\4_tcp"
}

// namedPorts are the ports of a service that have SRV records.
func namedPorts(svc *model.Service) []namedPort {
	var named []namedPort
	for _, p := range svc.Ports() {
		if p.Name == "" || len(p.Name) >= maxLabel {
			continue
		}
		np := namedPort{port: p.Port, protocol: string(appendLabel(nil, "_"+p.Protocol.String()))}
		np.sub = string(appendLabel(nil, "_"+p.Name)) + np.protocol
		if svc.Spec.Mode == model.ModeDNSRR {
			np.port = p.Target
		}
		named = append(named, np)
	}
	return named
}

func packService(o *Options, z *zone, svc *model.Service) *service {
	full := appendLabel(appendLabel(make([]byte, 0, maxName), svc.ID.Name), svc.ID.Stack)
	full = append(full, z.name.whole()...)
	tasksOf := append([]byte("\x05tasks"), full...)

	s := &service{of: svc, listed: taskAddrs(svc, (*model.Task).Listed)}
	s.idle, s.public = len(svc.Tasks) == 0, publicStack(svc.ID.Stack)
	s.addrs = packAddrs(o, addresses(svc))
	s.tasks = packAddrs(o, s.listed)
	if svc.VIP.IsValid() {
		s.vip = svc.VIP
		s.ptrVIP = rrset{records: appendRR(nil, nil, dns.TypePTR, o.ttl(), full), n: 1}
	}
	if len(s.listed) > 0 {
		s.ptrTasks = rrset{records: appendRR(nil, nil, dns.TypePTR, o.ttl(), tasksOf), n: 1}
	}
	for _, p := range namedPorts(svc) {
		if s.srv == nil {
			s.srv = map[string]*rrset{}
		}
		set := s.srv[p.sub]
		if set == nil {
			set = &rrset{}
			set.extra, set.nextra = extraAddrs(o, full, addresses(svc))
			s.srv[p.sub] = set
			s.srv[p.protocol] = &noData
		}
		rdata := binary.BigEndian.AppendUint16(make([]byte, 4, 6+len(full)), p.port) // priority 0, weight 0
		set.records = appendRR(set.records, nil, dns.TypeSRV, o.ttl(), append(rdata, full...))
		set.n++
	}
	return s
}

// packApex packs what the zone says of itself.
func (t *table) packApex(o *Options, z *zone) {
	zone := z.name.whole()
	rdata := append(slices.Concat(zone, []byte("\x0ahostmaster")), zone...)
	for _, v := range soaNumbers(t.snap, o) {
		rdata = binary.BigEndian.AppendUint32(rdata, v)
	}
	t.soa = appendRR(nil, nil, dns.TypeSOA, o.ttl(), rdata)
	t.apexSOA = rrset{records: t.soa, n: 1}
	t.apexNS = rrset{records: appendRR(nil, nil, dns.TypeNS, o.ttl(), zone), n: 1}
	t.apexNS.extra, t.apexNS.nextra = extraAddrs(o, zone, o.serverAddrs())
	t.apexAddrs = packAddrs(o, o.serverAddrs())
}

// soaNumbers are serial, refresh, retry, expire and minimum (RFC 1035 section
// 3.3.13, RFC 2308 section 4). Nobody transfers this zone: only the first and
// the last mean something.
func soaNumbers(snap *model.Snapshot, o *Options) [5]uint32 {
	return [5]uint32{uint32(snap.Revision), 3600, 600, 86400, o.ttl()}
}

func packAddrs(o *Options, addrs []netip.Addr) (sets [2]rrset) {
	for _, a := range addrs {
		set, typ := &sets[family(a)], addrType(a)
		if set.records == nil {
			set.records = make([]byte, 0, len(addrs)*(fixedRR+a.BitLen()/8))
		}
		set.records = appendRR(set.records, nil, typ, o.ttl(), a.AsSlice())
		set.n++
	}
	return sets
}

// maxExtra bounds the addresses put beside a SRV record: the rest can be asked for.
const maxExtra = 8

func extraAddrs(o *Options, owner []byte, addrs []netip.Addr) (b []byte, n uint8) {
	for _, a := range addrs[:min(len(addrs), maxExtra)] {
		b = appendRR(b, owner, addrType(a), o.ttl(), a.AsSlice())
		n++
	}
	return b, n
}

// family is the index of an address's records: 0 for IPv4, 1 for IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

func addrType(a netip.Addr) uint16 { return [2]uint16{dns.TypeA, dns.TypeAAAA}[family(a)] }

// fixedRR is how long a record without an owner is, but for its data.
const fixedRR = 12

// appendRR packs a record of class IN. Without an owner it points to the question.
func appendRR(b, owner []byte, typ uint16, ttl uint32, rdata []byte) []byte {
	if owner == nil {
		b = append(b, 0xC0, headerSize)
	}
	b = append(b, owner...)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, dns.ClassINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rdata)))
	return append(b, rdata...)
}

// outcome is what a table, or a Snapshot, says to a question.
type outcome uint8

const (
	notOurs   outcome = iota // forward it
	records                  // these; none is NODATA
	noName                   // NXDOMAIN
	undecided                // NXDOMAIN, and why: other stacks have it
)

// find looks up what a name asks for.
func (t *table) find(tg *target, qtype uint16, asker netip.Addr) (*rrset, outcome) {
	absent := notOurs
	if tg.inside {
		absent = noName
	}
	switch tg.kind {
	case kindApex:
		switch qtype {
		case dns.TypeNS:
			return &t.apexNS, records
		case dns.TypeSOA:
			return &t.apexSOA, records
		}
		return byType(&t.apexAddrs, qtype), records
	case kindReverseApex:
		switch qtype {
		case dns.TypeNS:
			return &t.apexNS, records
		case dns.TypeSOA:
			return &t.apexSOA, records
		}
		return &noData, records
	case kindBetween:
		return &noData, records
	case kindReverse:
		n, ok := t.ptr.Get(tg.addr)
		switch {
		case !ok:
			return nil, absent
		case qtype == dns.TypePTR:
			return n.set, records
		}
		return &noData, records
	case kindForeign, kindNothing:
		return nil, absent
	}

	s, inOtherStack := t.service(tg, asker)
	switch {
	case s == nil:
		if _, stack := cow.GetBytes(t.stacks, tg.service); stack && tg.inside && tg.full == nil && tg.kind == kindService {
			return &noData, records // web.shop.ZONE exists below it
		}
		if inOtherStack {
			return nil, undecided
		}
		return nil, absent
	case tg.kind == kindService:
		return byType(&s.addrs, qtype), records
	case tg.kind == kindTasks:
		return byType(&s.tasks, qtype), records
	}
	set := s.srv[string(tg.sub)]
	switch {
	case set == nil:
		return nil, noName
	case qtype == dns.TypeSRV:
		return set, records
	}
	return &noData, records
}

// service finds the service of a name, or that only other stacks have one, which
// the one who asks is to be told.
func (t *table) service(tg *target, asker netip.Addr) (s *service, inOtherStack bool) {
	if tg.full != nil {
		if s, _ := cow.GetBytes(t.services, tg.full); s != nil && (tg.inside || !s.public) {
			return s, false
		}
		return nil, false
	}
	var key [2 * (maxLabel + 1)]byte
	n := copy(key[:], tg.service)
	if stack, ok := t.snap.StackOf(asker); ok && len(stack) <= maxLabel {
		own, _ := cow.GetBytes(t.services, appendLabel(key[:n], stack))
		s = better(s, own)
	}
	ofDefault, _ := cow.GetBytes(t.services, appendLabel(key[:n], model.DefaultStack))
	s = better(s, ofDefault)
	all, _ := cow.GetBytes(t.named, tg.service)
	if s != nil && !s.idle || !t.flat {
		return s, s == nil && tg.inside && all.one != nil
	}
	switch {
	case all.one != nil && !all.several:
		return better(s, all.one), false
	default:
		return s, s == nil && all.several
	}
}

// better is the first of two services that could have a name, unless it alone
// has no tasks. Either may be nil.
func better(first, second *service) *service {
	if first == nil || second != nil && first.idle && !second.idle {
		return second
	}
	return first
}

func byType(sets *[2]rrset, qtype uint16) *rrset {
	switch qtype {
	case dns.TypeA:
		return &sets[0]
	case dns.TypeAAAA:
		return &sets[1]
	}
	return &noData
}
