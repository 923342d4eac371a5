package ipvs

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// connsFile is all connections of the calling thread's namespace; one that is opened stays
// that namespace's.
const connsFile = "/proc/thread-self/net/ip_vs_conn"

// Closing counts, by destination, the TCP connections that one end has closed: the other
// may have something to say, and what was said may still be on its way. The kernel counts
// them as inactive, as it does those that are over. It looks through all connections.
func (h *Handle) Closing() (map[netip.AddrPort]int, error) {
	all, err := readClosing(io.NewSectionReader(h.conns, 0, math.MaxInt64))
	if err != nil {
		return nil, fmt.Errorf("read the connections of IPVS: %w", err)
	}
	return all, nil
}

// readClosing reads lines such as (net/netfilter/ipvs/ip_vs_conn.c)
//
//	Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
//	TCP C0A84D01 C276 0A600001 0050 0AF40103 1F40 CLOSE_WAIT       59
func readClosing(r io.Reader) (map[netip.AddrPort]int, error) {
	all := map[netip.AddrPort]int{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if l := lines.Bytes(); !bytes.Contains(l, []byte("FIN_WAIT")) && !bytes.Contains(l, []byte("CLOSE_WAIT")) {
			continue // nearly all, and there may be a million
		}
		f := strings.Fields(lines.Text())
		if len(f) < 8 || f[0] != "TCP" || f[7] != "FIN_WAIT" && f[7] != "CLOSE_WAIT" {
			continue
		}
		addr, err := hex.DecodeString(f[5])
		if err != nil || len(addr) != 4 {
			continue // of IPv6
		}
		port, err := strconv.ParseUint(f[6], 16, 16)
		if err != nil {
			continue
		}
		all[netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr)), uint16(port))]++
	}
	return all, lines.Err()
}
