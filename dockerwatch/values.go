package dockerwatch

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"shoal/model"
)

// schedulers are those of the kernel (net/netfilter/ipvs/Kconfig).
var schedulers = []string{"rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "twos"}

// defaultAffinity is what ipvsadm -p takes without a number.
const (
	defaultAffinity = 300 * time.Second
	maxAffinity     = 24 * time.Hour
)

func parseMode(v string) (model.Mode, error) {
	if m := model.Mode(v); m == model.ModeVIP || m == model.ModeDNSRR {
		return m, nil
	}
	return "", errors.New("use vip or dnsrr")
}

func parseScheduler(v string) (string, error) {
	if !slices.Contains(schedulers, v) {
		return "", fmt.Errorf("no such IPVS scheduler: use one of %s", strings.Join(schedulers, ", "))
	}
	return v, nil
}

func parseWeight(v string) (int, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return 0, errors.New("use a number from 0 to 65535")
	}
	return int(n), nil
}

func parseAffinity(v string) (time.Duration, error) {
	who, seconds, timed := strings.Cut(v, ":")
	if who != "client" {
		return 0, errors.New("use client, or client:SECONDS")
	}
	if !timed {
		return defaultAffinity, nil
	}
	n, err := strconv.ParseUint(seconds, 10, 32)
	if d := time.Duration(n) * time.Second; err == nil && n > 0 && d <= maxAffinity {
		return d, nil
	}
	return 0, fmt.Errorf("use client:SECONDS, with 1 to %d seconds", maxAffinity/time.Second)
}

func parsePublishLocal(v string) (bool, error) {
	if v != "true" && v != "false" {
		return false, errors.New("use true or false")
	}
	return v == "true", nil
}

// parseLocality tells whether tasks of the client's own host are preferred.
func parseLocality(v string) (bool, error) {
	if v != "any" && v != "prefer-local" {
		return false, errors.New("use any or prefer-local")
	}
	return v == "prefer-local", nil
}

func parseHealth(v string) (bool, error) {
	if v != "docker" && v != "none" {
		return false, errors.New("use docker or none")
	}
	return v == "docker", nil
}

// parseReady tells whether the task's ports decide when it enters rotation.
func parseReady(v string) (bool, error) {
	if v != "port" && v != "none" {
		return false, errors.New("use port or none")
	}
	return v == "port", nil
}

func parseDrain(v string) (time.Duration, error) {
	var d time.Duration
	n, err := strconv.ParseUint(v, 10, 16)
	if err == nil {
		d = time.Duration(n) * time.Second
	} else {
		d, err = time.ParseDuration(v)
	}
	if err != nil || d < 0 || d > maxDrain {
		return 0, errors.New("use a time from 0 to 1h, as in 10s or 1m30s")
	}
	return d, nil
}

func parseVIP(v string, l limits) (netip.Addr, error) {
	vip, err := netip.ParseAddr(v)
	if err != nil {
		return netip.Addr{}, errors.New("no IP address")
	}
	vip = vip.Unmap()
	if !l.pool.Contains(vip) {
		return netip.Addr{}, model.VIPOutsidePool.Errorf("not in the pool of VIPs: use an address of %s", l.pool)
	}
	if slices.Contains(l.reserved, vip) {
		return netip.Addr{}, model.VIPReserved.Errorf("reserved: use another address of %s", l.pool)
	}
	return vip, nil
}

// nearest is the one of known that word was most likely meant to be, or "":
// at most two edits away, and less than half of it.
func nearest(word string, known []string) string {
	if len(word) > 20 {
		return ""
	}
	word = strings.ToLower(word)
	best, least := "", 3
	for _, k := range known {
		if d := distance(word, k); d < least && 2*d < len(k) {
			best, least = k, d
		}
	}
	return best
}

// distance is the number of letters to put in, take out, change or swap with
// their neighbour to make a of b (optimal string alignment).
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			change := row[j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			next[j] = min(change, row[j]+1, next[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
