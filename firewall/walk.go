package firewall

import (
	"bytes"
	"fmt"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// fate is what becomes of a packet in a chain.
type fate int

const (
	goesOn fate = iota // to the end of the chain
	passes             // or may pass: it is not known
	drops
)

// maxDepth is the deepest that chains may call each other in the kernel
// (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

// walk leads a packet through a base chain, and tells what drops it for
// certain; "": nothing does.
func (t *Table) walk(base *Chain, p *Packet) (by string) {
	w := walker{table: t, packet: p}
	switch w.chain(base, 0) {
	case drops:
		return w.by
	case goesOn:
		if base.Drops && !w.unsure {
			return "its policy"
		}
	}
	return ""
}

type walker struct {
	table  *Table
	packet *Packet
	unsure bool // a rule that the packet came by may have accepted it
	by     string
}

func (w *walker) chain(c *Chain, depth int) fate {
	if c == nil || depth > maxDepth {
		return passes
	}
	for i, r := range c.Rules {
		verdict, sure := w.rule(r)
		if verdict == nil {
			continue
		}
		end := goesOn
		switch verdict.Kind {
		case expr.VerdictAccept, expr.VerdictQueue, expr.VerdictStolen, expr.VerdictRepeat:
			end = passes
		case expr.VerdictDrop:
			end = drops
			if sure && !w.unsure {
				w.by = fmt.Sprintf("rule %d of chain %s", i+1, c.Name)
			}
		case expr.VerdictJump, expr.VerdictGoto:
			inner := walker{table: w.table, packet: w.packet, unsure: w.unsure}
			end = inner.chain(w.table.Chains[verdict.Chain], depth+1)
			w.unsure = w.unsure || inner.unsure
			if w.by == "" {
				w.by = inner.by
			}
			if sure && verdict.Kind == expr.VerdictGoto && end == goesOn {
				return goesOn
			}
		case expr.VerdictReturn:
			if sure {
				return goesOn
			}
			w.unsure = true // what follows may not be met
			continue
		}
		switch {
		case end == passes && sure:
			return passes
		case end == passes:
			w.unsure = true
		case end == drops && sure:
			if w.unsure {
				return passes
			}
			return drops
		case verdict.Kind == expr.VerdictGoto && !sure:
			w.unsure = true
		}
	}
	return goesOn
}

// registers are those of the kernel, in words of 32 bits.
type registers struct {
	b     [80]byte
	known [80]bool
}

// at is where a register begins: there are four of 128 bits, which are sixteen of
// 32 bits as well.
func at(reg uint32) int {
	if reg >= unix.NFT_REG32_00 {
		return int(reg-unix.NFT_REG32_00) * 4
	}
	return (int(reg) - unix.NFT_REG_1) * 16
}

func (r *registers) set(reg uint32, v value, length int) {
	i := at(reg)
	if i < 0 || i+max(length, len(v.b)) > len(r.b) {
		return
	}
	for k := range max((length+3)/4*4, (len(v.b)+3)/4*4) {
		if i+k >= len(r.b) {
			break
		}
		r.b[i+k], r.known[i+k] = 0, v.known
		if k < len(v.b) {
			r.b[i+k] = v.b[k]
		}
	}
}

func (r *registers) get(reg uint32, length int) value {
	i := at(reg)
	if i < 0 || i+length > len(r.b) {
		return value{}
	}
	for k := range length {
		if !r.known[i+k] {
			return value{}
		}
	}
	return known(bytes.Clone(r.b[i : i+length]))
}

// rule tells the verdict of a rule for the packet, nil if it does not match or
// has none, and whether it is sure that it matches.
func (w *walker) rule(r Rule) (verdict *expr.Verdict, sure bool) {
	var regs registers
	sure = true
	match := func(v value, does func([]byte) bool) (goOn bool) {
		if !v.known {
			sure = false
			return true
		}
		return does(v.b)
	}
	for _, e := range r {
		switch e := e.(type) {
		case *expr.Meta:
			if !e.SourceRegister {
				regs.set(e.Register, w.packet.meta(e.Key), 16)
			}
		case *expr.Payload:
			if e.OperationType == expr.PayloadLoad {
				regs.set(e.DestRegister, w.packet.payload(e.Base, e.Offset, e.Len), int(e.Len))
			}
		case *expr.Ct:
			if !e.SourceRegister {
				regs.set(e.Register, w.packet.ct(e.Key), 16)
			}
		case *expr.Fib:
			regs.set(e.Register, w.packet.fib(e), 4)
		case *expr.Immediate:
			regs.set(e.Register, known(e.Data), len(e.Data))
		case *expr.Bitwise:
			v := regs.get(e.SourceRegister, int(e.Len))
			if v.known && len(e.Mask) == int(e.Len) && len(e.Xor) == int(e.Len) {
				for i := range v.b {
					v.b[i] = v.b[i]&e.Mask[i] ^ e.Xor[i]
				}
			} else {
				v = value{}
			}
			regs.set(e.DestRegister, v, int(e.Len))
		case *expr.Cmp:
			if !match(regs.get(e.Register, len(e.Data)), func(b []byte) bool { return compares(e.Op, bytes.Compare(b, e.Data)) }) {
				return nil, true
			}
		case *expr.Range:
			if !match(regs.get(e.Register, len(e.FromData)), func(b []byte) bool {
				within := bytes.Compare(b, e.FromData) >= 0 && bytes.Compare(b, e.ToData) <= 0
				return within == (e.Op == expr.CmpOpEq)
			}) {
				return nil, true
			}
		case *expr.Lookup:
			goOn, v := w.lookUp(e, &regs, &sure)
			if !goOn {
				return nil, true
			}
			if v != nil {
				return v, sure
			}
		case *expr.Counter, *expr.Log, *expr.Notrack:
		case *expr.Reject:
			return &expr.Verdict{Kind: expr.VerdictDrop}, sure
		case *expr.Verdict:
			return e, sure
		default:
			sure = false // it may match or not, and load what is asked for next
			regs = registers{}
		}
	}
	return nil, true
}

// lookUp tells whether the rule goes on, and the verdict of a map of those.
func (w *walker) lookUp(e *expr.Lookup, regs *registers, sure *bool) (goOn bool, verdict *expr.Verdict) {
	set := w.table.Sets[e.SetName]
	if set == nil || set.Unknown || len(set.Elements) > 0 && !regs.get(e.SourceRegister, len(set.Elements[0].Key)).known {
		*sure = false
		if e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT {
			return true, &expr.Verdict{Kind: expr.VerdictAccept} // any of its verdicts
		}
		return true, nil
	}
	if len(set.Elements) == 0 {
		return e.Invert, nil
	}
	key := regs.get(e.SourceRegister, len(set.Elements[0].Key))
	found, has := set.holds(key.b)
	if has == e.Invert {
		return false, nil
	}
	if has && e.IsDestRegSet {
		if e.DestRegister == unix.NFT_REG_VERDICT {
			return true, found.Verdict
		}
		regs.set(e.DestRegister, known(found.Value), len(found.Value))
	}
	return true, nil
}

func compares(op expr.CmpOp, c int) bool {
	switch op {
	case expr.CmpOpEq:
		return c == 0
	case expr.CmpOpNeq:
		return c != 0
	case expr.CmpOpLt:
		return c < 0
	case expr.CmpOpLte:
		return c <= 0
	case expr.CmpOpGt:
		return c > 0
	}
	return c >= 0
}
