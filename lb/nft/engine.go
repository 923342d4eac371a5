package nft

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// An engine may keep its rules in nftables (from 29 on: firewall-backend), in a
// table of its own. Then nothing of ours can accept what it drops.
//
// In raw it drops what comes to a container's address from elsewhere than the
// container's bridge (moby: nftabler, filterDirectAccess), and with that the
// reply of a task on one bridge to a client on another. It knows the container by
// the packet's destination. So the destination of what is to pass has another
// first bit while the packet is in raw: it is changed just before and changed
// back just after, before anything else of the kernel looks at it.
//
// In forward it drops what goes to a port that is not published, by the bridge
// that the packet leaves by (UNPUBLISHED PORT DROP). Past that there is no way
// but the engine's own setting bridge-accept-fwmark, with [passBit]. The mesh's
// network is made without that rule, and closed by ours.
//
// Its masquerading comes after our own chain, which has given a connection its
// source by then.

// engineTable is where the engine has them.
const engineTable = "docker-bridges"

// AcceptMark is what the engine's setting bridge-accept-fwmark is to be, for an
// engine that uses nftables to let pass what passes here.
var AcceptMark = fmt.Sprintf("%#x/%#[1]x", passBit)

// otherBit is the first of an address: 10.0.0.2 becomes 138.0.0.2.
var otherBit = []byte{0x80, 0, 0, 0}

// pastEngine are the chains that hide a destination from the engine, and show it
// again. The header's checksum is not corrected in between: it was checked when
// the packet came in, and is right again after.
func pastEngine(pre *nftables.ChainHook, kind nftables.ChainType) []chain {
	other := append(dest(r0),
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: []byte{0xff, 0xff, 0xff, 0xff}, Xor: otherBit},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4})
	return []chain{
		{"engine-hide", pre, kind, hideRaw, []rule{on("the engine drops it by its destination", has(packetMark, passBit), other)}},
		{"engine-show", pre, kind, showRaw, []rule{on("which it has again", has(packetMark, passBit), other)}},
	}
}

// EngineUsesNftables tells whether an engine of this host keeps its rules in
// nftables; not if that cannot be found out.
func EngineUsesNftables() bool {
	l, err := nftables.New()
	if err != nil {
		return false
	}
	_, err = l.ListTableOfFamily(engineTable, nftables.TableFamilyIPv4)
	return err == nil
}

// lookForEngine finds out whether the engine's rules are in nftables.
func (p *Plane) lookForEngine() error {
	tables, err := p.lib.ListTablesOfFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return fmt.Errorf("list the tables of nf_tables: %w", err)
	}
	p.around.engine = false
	for _, t := range tables {
		p.around.engine = p.around.engine || t.Name == engineTable
	}
	return nil
}
