package vxlan

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolValue is struct ethtool_value (include/uapi/linux/ethtool.h).
type ethtoolValue struct{ cmd, data uint32 }

// ethtoolRequest is struct ifreq with a pointer.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte // the union's other members are longer
}

// The old commands, which switch all of a device's checksum features; of a
// vxlan device that is tx-checksum-ip-generic alone.
const (
	ethtoolGetTxChecksum = 0x16 // ETHTOOL_GTXCSUM
	ethtoolSetTxChecksum = 0x17 // ETHTOOL_STXCSUM
)

// txChecksum tells whether checksums of what the device sends are left to the
// network card.
func txChecksum(dev string) (bool, error) {
	v := ethtoolValue{cmd: ethtoolGetTxChecksum}
	if err := ethtool(dev, &v); err != nil {
		return false, fmt.Errorf("read the checksum offload of %s: %w", dev, err)
	}
	return v.data != 0, nil
}

func setTxChecksum(dev string, on bool) error {
	v := ethtoolValue{cmd: ethtoolSetTxChecksum}
	if on {
		v.data = 1
	}
	return ethtool(dev, &v)
}

func ethtool(dev string, v *ethtoolValue) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req := ethtoolRequest{data: unsafe.Pointer(v)}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(v)
	if errno != 0 {
		return errno
	}
	return nil
}
