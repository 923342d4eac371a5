package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// Flags of a service (include/uapi/linux/ip_vs.h).
const (
	flagPersistent = 0x0001
	flagHashed     = 0x0002 // the kernel's own
	flagFallback   = 0x0008 // SH_FALLBACK, MH_FALLBACK: IP_VS_SVC_F_SCHED1
)

// SchedulerFlags are the flags that a service with that scheduler has. The
// hashing schedulers, told nothing, refuse every client whose hash falls on a
// destination of weight 0; with the fallback flag they take the next one.
func SchedulerFlags(scheduler string) uint32 {
	if scheduler == "sh" || scheduler == "mh" {
		return flagFallback
	}
	return 0
}

// Mapped is how clients keep their destination where the service has
// destinations on other ports than its own. For services by mark the kernel's
// affinity does not rewrite the port (ip_vs_sched_persist in
// net/netfilter/ipvs/ip_vs_core.c compares it with the service's, which is 0), so
// such clients are told apart by a hash of their address instead: when
// destinations come and go, a few move.
func Mapped(scheduler string, affinity uint32) (string, uint32) {
	if affinity > 0 {
		return "mh", 0
	}
	return scheduler, 0
}

// Timeouts are after how long the kernel forgets an idle connection.
type Timeouts struct {
	TCP    time.Duration // established
	TCPFin time.Duration // one side has closed
	UDP    time.Duration
}

// Service is how the packets of one mark are balanced. The flags of the
// scheduler are not in it: they follow from its name, see [SchedulerFlags].
type Service struct {
	Mark      uint32
	Scheduler string // "rr"
	Affinity  uint32 // how long a client keeps its destination, in seconds; 0: it does not
}

// Destination is where a service sends packets, by NAT (masquerading).
type Destination struct {
	Addr   netip.AddrPort // port 0: the packet's own
	Weight int            // 0: no new connections
}

// Dest is a destination as the kernel has it.
type Dest struct {
	Weight   int
	Active   int // connections established
	Inactive int // others: being opened or closed, and all of UDP
}

// Virtual is a service as the kernel has it. Its scheduler is no scheduler's
// name if its flags are not those that [SchedulerFlags] says.
type Virtual struct {
	Service
	Dests map[netip.AddrPort]Dest
}

// Stats are a service's counters since it was made. Connections and packets
// wrap at 2³².
type Stats struct {
	Connections, PacketsIn, PacketsOut uint32
	BytesIn, BytesOut                  uint64
}

// table is all services and destinations of the calling thread's namespace.
// It is there only with ip_vs.
const table = "/proc/thread-self/net/ip_vs"

// Handle writes to the IPVS of one network namespace. It is for one goroutine
// at a time.
type Handle struct {
	h     *ipvs.Handle
	fd    int      // for socket options
	conns *os.File // see [Handle.Closing]
}

// Load loads the kernel's module where it is not there, with a table of
// connections of 2^bits buckets. The size of one that is loaded stays.
func Load(ctx context.Context, bits int) error {
	if err := kernel.Need(ctx, table, "ip_vs", fmt.Sprintf("conn_tab_bits=%d", bits)); err == nil {
		return nil
	}
	return kernel.Need(ctx, table, "ip_vs") // one that does not take so many
}

// New opens the IPVS of the calling thread's network namespace, loading the
// kernel's module where it is not there. It does so before the library tries,
// which remembers a failure for the life of the process.
func New(ctx context.Context) (*Handle, error) {
	if err := kernel.Need(ctx, table, "ip_vs"); err != nil {
		return nil, err
	}
	h, err := ipvs.New("")
	if err != nil {
		return nil, fmt.Errorf("open IPVS: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open IPVS: %w", err)
	}
	conns, err := os.Open(connsFile)
	if err != nil {
		h.Close()
		unix.Close(fd)
		return nil, fmt.Errorf("open IPVS: %w", err)
	}
	return &Handle{h: h, fd: fd, conns: conns}, nil
}

// Close gives the sockets and the file back.
func (h *Handle) Close() {
	h.h.Close()
	unix.Close(h.fd)
	h.conns.Close()
}

// Destinations reads those of one service.
func (h *Handle) Destinations(mark uint32) (map[netip.AddrPort]Dest, error) {
	found, err := h.h.GetDestinations(service(Service{Mark: mark}))
	if err != nil {
		return nil, fmt.Errorf("read destinations of virtual service %#x: %w", mark, err)
	}
	dests := make(map[netip.AddrPort]Dest, len(found))
	for _, d := range found {
		a, _ := netip.AddrFromSlice(d.Address)
		dests[netip.AddrPortFrom(a.Unmap(), d.Port)] = Dest{d.Weight, d.ActiveConnections, d.InactiveConnections}
	}
	return dests, nil
}

// Put makes a service, or changes the one with its mark.
func (h *Handle) Put(s Service) error {
	kernel.Wrote("ipvs", 1)
	err := h.h.NewService(service(s))
	if errors.Is(err, unix.EEXIST) {
		err = h.h.UpdateService(service(s))
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("virtual service %#x: this kernel has no scheduler %s: load the module ip_vs_%[2]s or use another scheduler", s.Mark, s.Scheduler)
	case err != nil:
		return fmt.Errorf("put virtual service %#x (%s): %w", s.Mark, s.Scheduler, err)
	}
	return nil
}

// Delete removes a service with its destinations; one that is not there is not
// an error. Connections through it end, at the latest with their next packet.
func (h *Handle) Delete(mark uint32) error {
	err := h.h.DelService(service(Service{Mark: mark}))
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	kernel.Wrote("ipvs", 1)
	if err != nil {
		return fmt.Errorf("delete virtual service %#x: %w", mark, err)
	}
	return nil
}

// PutDestination adds a destination to a service, or changes its weight.
func (h *Handle) PutDestination(mark uint32, d Destination) error {
	kernel.Wrote("ipvs", 1)
	s, dest := service(Service{Mark: mark}), destination(d)
	err := h.h.NewDestination(s, dest)
	if errors.Is(err, unix.EEXIST) {
		err = h.h.UpdateDestination(s, dest)
	}
	if err != nil {
		return fmt.Errorf("put destination %s of virtual service %#x: %w", d.Addr, mark, err)
	}
	return nil
}

// DeleteDestination takes a destination out; one that is not there, or whose
// service is not, is not an error. With net.ipv4.vs.expire_nodest_conn=1 its
// connections end and their conntrack entries go.
func (h *Handle) DeleteDestination(mark uint32, addr netip.AddrPort) error {
	err := h.h.DelDestination(service(Service{Mark: mark}), destination(Destination{Addr: addr}))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	kernel.Wrote("ipvs", 1)
	if err != nil {
		return fmt.Errorf("delete destination %s of virtual service %#x: %w", addr, mark, err)
	}
	return nil
}

// Timeouts reads the idle timeouts of the namespace.
func (h *Handle) Timeouts() (Timeouts, error) {
	c, err := h.h.GetConfig()
	if err != nil {
		return Timeouts{}, fmt.Errorf("read IPVS timeouts: %w", err)
	}
	return Timeouts{c.TimeoutTCP, c.TimeoutTCPFin, c.TimeoutUDP}, nil
}

// SetTimeouts sets the idle timeouts, in whole seconds; one that is zero stays
// as it is.
func (h *Handle) SetTimeouts(t Timeouts) error {
	kernel.Wrote("ipvs", 1)
	if err := h.h.SetConfig(&ipvs.Config{TimeoutTCP: t.TCP, TimeoutTCPFin: t.TCPFin, TimeoutUDP: t.UDP}); err != nil {
		return fmt.Errorf("set IPVS timeouts: %w", err)
	}
	return nil
}

func service(s Service) *ipvs.Service {
	v := &ipvs.Service{
		AddressFamily: unix.AF_INET,
		FWMark:        s.Mark,
		SchedName:     s.Scheduler,
		Flags:         SchedulerFlags(s.Scheduler),
		Netmask:       ^uint32(0), // affinity is of one address
	}
	if s.Affinity > 0 {
		v.Flags |= flagPersistent
		v.Timeout = s.Affinity
	}
	return v
}

func destination(d Destination) *ipvs.Destination {
	return &ipvs.Destination{
		AddressFamily:   unix.AF_INET,
		Address:         d.Addr.Addr().AsSlice(),
		Port:            d.Addr.Port(),
		Weight:          d.Weight,
		ConnectionFlags: ipvs.ConnFwdMasq,
	}
}

// Loaded tells whether the kernel has IPVS in the calling thread's namespace,
// without loading it.
func Loaded() bool {
	_, err := os.Stat(table)
	return err == nil
}
