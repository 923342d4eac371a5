package agent

import (
	"errors"
	"strings"
	"testing"
)

func TestChoosePlane(t *testing.T) {
	for _, tt := range []struct {
		name   string
		engine bool // that uses nftables
		lacks  map[string]string
		chosen string
		why    string
		err    string
	}{
		{"auto", false, nil, "ipvs", "all that it needs", ""},
		{"auto", false, map[string]string{"ipvs": "no ip_vs"}, "nftables", "no ip_vs", ""},
		{"auto", false, map[string]string{"nftables": "no nf_tables"}, "ipvs", "all that it needs", ""},
		{"auto", false, map[string]string{"ipvs": "no ip_vs", "nftables": "no nf_tables"}, "", "", "no nf_tables"},
		{"ipvs", false, map[string]string{"ipvs": "no ip_vs"}, "", "", "no ip_vs"},
		{"nftables", false, nil, "nftables", "--data-plane", ""},
		{"auto", true, nil, "nftables", "the engine keeps its rules in nftables", ""},
		{"auto", true, map[string]string{"nftables": "no nft_hash"}, "ipvs", "no nft_hash", ""},
		{"ipvs", true, nil, "ipvs", "--data-plane", ""},
	} {
		got, why, err := choosePlane(tt.name, tt.engine, func(k kind) error {
			if l := tt.lacks[k.name]; l != "" {
				return errors.New(l)
			}
			return nil
		})
		if got.name != tt.chosen || !strings.Contains(why, tt.why) || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s, lacking %v: %q, %q, %v; want %q, %q, %q", tt.name, tt.lacks, got.name, why, err, tt.chosen, tt.why, tt.err)
		}
	}
}
