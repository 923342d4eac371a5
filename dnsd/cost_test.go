package dnsd

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// stranger is an address that may not ask.
var stranger = ip("8.8.8.8")

// withRecord is a question with one additional record behind it.
func withRecord(qname string, rr []byte) []byte {
	msg := question(qname, "A")
	return append(msg[:len(msg)-optSize:len(msg)-optSize], rr...) // it counts in place of the OPT record
}

// record is one with the root as its owner.
func record(typ uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0}, typ)
	b = append(b, 0, 1, 0, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}

// manyNames is a question with a HIP record (RFC 8005) of so many rendezvous
// servers, each a pointer to the question's name of 254 octets.
func manyNames(pointers int) []byte {
	label := strings.Repeat(`\001`, 60) + "." // each octet is four in the library's text
	data := []byte{1, 2, 0, 1, 'h', 'k'}
	for range pointers {
		data = append(data, 0xC0, headerSize)
	}
	return withRecord(strings.Repeat(label, 4)+"aaaaaaaa", record(dns.TypeHIP, data))
}

// costly are messages that are expensive to unpack.
func costly() map[string][]byte {
	options := record(dns.TypeOPT, bytes.Repeat([]byte{0xFD, 0xE9, 0, 0}, 1000))
	records := question("web", "A")
	records = records[:len(records)-optSize]
	binary.BigEndian.PutUint16(records[10:], 350)
	records = append(records, bytes.Repeat(record(dns.TypeNULL, nil), 350)...)
	return map[string][]byte{
		"32000_names":  manyNames(32_000),
		"1900_names":   manyNames(1900),
		"1000_options": withRecord("web", options),
		"350_records":  records,
	}
}

// TestStrangersAreToldWhyTheyAreRefused looks at the extended error (RFC 8914), which
// goes to those alone who sent an OPT record that can be read.
func TestStrangersAreToldWhyTheyAreRefused(t *testing.T) {
	r := prometheus.NewRegistry()
	o := options()
	o.Registerer = r
	s := unstarted(t, o)
	opt := record(dns.TypeOPT, nil)
	signature := record(dns.TypeTSIG, []byte("it is not looked at"))
	two := withRecord("web", append(signature, opt...))
	two[11] = 2
	all := map[string]struct {
		msg []byte
		ede bool
	}{
		"a plain question":                     {question("web", "A"), true},
		"no OPT record":                        {withRecord("web", signature), false},
		"an OPT record behind another":         {two, true},
		"an OPT record whose owner has a name": {withRecord("web", append([]byte{0xC0, headerSize}, opt[1:]...)), false},
		"an option longer than its record":     {withRecord("web", record(dns.TypeOPT, []byte{0xFD, 0xE9, 0, 9})), false},
		"a message that is too long":           {manyNames(32_000), false},
	}
	for what, c := range all {
		m, _ := slowAnswer(t, s, c.msg, stranger, false)
		if m.Rcode != dns.RcodeRefused || len(m.Question) != 1 {
			t.Errorf("%s is answered with\n%s", what, m)
		}
		told := false
		if opt := m.IsEdns0(); opt != nil {
			told = len(opt.Option) == 1 && opt.Option[0].(*dns.EDNS0_EDE).InfoCode == dns.ExtendedErrorCodeProhibited
		}
		if told != c.ede {
			t.Errorf("%s: told why it is refused: %t", what, told)
		}
	}
	if n := counted(t, r, "shoal_dns_queries_total", "refused"); int(n) != len(all) {
		t.Errorf("%v questions are counted as refused, of %d", n, len(all))
	}
}

// TestCostlyMessagesAreAnsweredCheaply counts the allocations of an answer. They are
// as few as for a short question, whoever asks.
func TestCostlyMessagesAreAnsweredCheaply(t *testing.T) {
	s := unstarted(t, options())
	for what, msg := range costly() {
		for _, asker := range []netip.Addr{stranger, ip127} {
			allocs := testing.AllocsPerRun(5, func() { s.slow(msg, asker, false, func([]byte) {}) })
			if allocs > 40 {
				t.Errorf("%s of %s, %d octets: %.0f allocations", what, asker, len(msg), allocs)
			}
		}
	}
}

func BenchmarkCostly(b *testing.B) {
	s := unstarted(b, options())
	all := costly()
	all["plain"] = question("web", "A")
	for what, msg := range all {
		msg = msg[:min(len(msg), maxQuestion+1)] // as it is received
		for who, asker := range map[string]netip.Addr{"stranger": stranger, "allowed": ip127} {
			b.Run(what+"/"+who, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					s.slow(slices.Clone(msg), asker, false, func([]byte) {})
				}
			})
		}
	}
}
