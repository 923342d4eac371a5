package bridge

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"shoal/kernel"
)

// ErrNoNetfilter says that this kernel's bridges know no netfilter.
var ErrNoNetfilter = errors.New("this kernel's bridges cannot pass IPv4 packets to netfilter: it was built without CONFIG_BRIDGE_NETFILTER")

// NFCallIPTables tells whether iptables and nftables see the IPv4 packets that
// a bridge forwards between its own ports ("nf_call_iptables" of
// ip-link(8)). They do so too where the sysctl bridge-nf-call-iptables says so for
// all bridges of the network namespace, and in either case only while the module
// br_netfilter is loaded.
//
// It goes by netlink: the same in sysfs is there only for the namespace that
// sysfs was mounted in.
func NFCallIPTables(bridge string) (bool, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(bridge)))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return false, fmt.Errorf("read the bridge %s: %w", bridge, err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttrAsMap(m[unix.SizeofIfInfomsg:])
		if err != nil {
			return false, fmt.Errorf("read the bridge %s: %w", bridge, err)
		}
		info, err := nl.ParseRouteAttrAsMap(attrs[unix.IFLA_LINKINFO].Value)
		if err != nil {
			return false, fmt.Errorf("read the bridge %s: %w", bridge, err)
		}
		if kind := strings.TrimRight(string(info[nl.IFLA_INFO_KIND].Value), "\x00"); kind != "bridge" {
			return false, fmt.Errorf("read the bridge %s: it is no bridge", bridge)
		}
		data, err := nl.ParseRouteAttrAsMap(info[nl.IFLA_INFO_DATA].Value)
		if err != nil {
			return false, fmt.Errorf("read the bridge %s: %w", bridge, err)
		}
		if a, ok := data[nl.IFLA_BR_NF_CALL_IPTABLES]; ok && len(a.Value) > 0 {
			return a.Value[0] != 0, nil
		}
	}
	return false, fmt.Errorf("read the bridge %s: %w", bridge, ErrNoNetfilter)
}

// SetNFCallIPTables sets what [NFCallIPTables] tells. A bridge that is gone is
// not an error.
func SetNFCallIPTables(bridge string, on bool) error {
	link, err := netlink.LinkByName(bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the bridge %s: %w", bridge, err)
	}
	value := []byte{0}
	if on {
		value[0] = 1
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_NF_CALL_IPTABLES, value)
	req.AddData(info)
	kernel.Wrote("bridge", 1)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("have the bridge %s pass its packets to netfilter (%t): %w", bridge, on, err)
	}
	return nil
}
