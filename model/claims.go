package model

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// What claiming an address, a port or a subnet for the whole cluster can end with.

// ErrAway says that etcd does not answer. The last state stays in use meanwhile.
var ErrAway = StoreUnreachable.Errorf("etcd does not answer, try again when it does; see: shoal status")

// TakenError says that an address is another service's VIP.
type TakenError struct {
	Addr   netip.Addr
	Holder ServiceID
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("%s is the VIP of %s; if that is not needed any more, run: shoal service rm %[2]s", e.Addr, e.Holder)
}

// ProblemCode is [VIPTaken].
func (e *TakenError) ProblemCode() Code { return VIPTaken }

// RestingError says that an address was another service's VIP until not long ago:
// clients may still use it for that one, and it is nobody's for a while.
type RestingError struct {
	Addr    netip.Addr
	Resting map[netip.Addr]time.Time // all that rest, Addr among them, with their ends
}

func (e *RestingError) Error() string {
	return fmt.Sprintf("%s was given back not long ago, and clients may still use it for the service that had it: it is free at %s",
		e.Addr, e.Resting[e.Addr].Format(time.RFC3339))
}

// ProblemCode is [VIPResting].
func (e *RestingError) ProblemCode() Code { return VIPResting }

// ErrNoService says that nothing is remembered of a service.
var ErrNoService = errors.New("no such service; run: shoal services")

// PortTakenError says that a port of the routing mesh is another service's.
type PortTakenError struct {
	Protocol Protocol
	Port     uint16
	Holder   ServiceID
}

func (e *PortTakenError) Error() string {
	return fmt.Sprintf("%d/%s is already claimed by %s; publish another port, or remove that service", e.Port, e.Protocol, e.Holder)
}

// ProblemCode is [PortTaken].
func (e *PortTakenError) ProblemCode() Code { return PortTaken }
