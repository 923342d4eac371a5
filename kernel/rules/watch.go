package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"shoal/kernel/watch"
)

// Watch signals when somebody changes chains that packages keep here, or a
// built-in chain that they are jumped to from, in the network namespace of the
// calling thread: what was in front may be so no longer. It tells of the
// caller's own changes too. The kernel notifies of nf_tables only; where
// iptables writes to ip_tables, or there is no iptables, the channel is nil and
// never signals.
func Watch(ctx context.Context) (<-chan struct{}, error) {
	ipt, err := program()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case ipt.variant != nft:
		return nil, nil
	}
	changed, err := watch.Subscribe(ctx, concerns, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("watch the rules of iptables: %w", err)
	}
	return changed, nil
}

// Of include/uapi/linux/netfilter/nf_tables.h.
const (
	nfGenMsgLen = 4 // struct nfgenmsg

	tableName = 1 // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE and NFTA_RULE_TABLE
	ruleChain = 2 // NFTA_RULE_CHAIN
	chainName = 3 // NFTA_CHAIN_NAME
)

// builtIn are the chains that jumps to ours can stand in.
var builtIn = []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

// concerns tells whether a notification is about what counts. Most are not:
// engines write rules for each container and port, into chains of their own.
func concerns(kind uint16, data []byte) bool {
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(data) < nfGenMsgLen || data[0] != unix.NFPROTO_IPV4 {
		return false
	}
	name := func(attribute uint16) string {
		b, _ := watch.Attribute(data, nfGenMsgLen, attribute)
		return string(bytes.TrimRight(b, "\x00"))
	}
	if !slices.Contains(tables, name(tableName)) {
		return false
	}
	switch kind & 0xff {
	case unix.NFT_MSG_DELTABLE:
		return true
	case unix.NFT_MSG_DELCHAIN:
		return strings.HasPrefix(name(chainName), Prefix)
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		chain := name(ruleChain)
		return strings.HasPrefix(chain, Prefix) || slices.Contains(builtIn, chain)
	}
	return false
}
