package firewall

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSavedRulesThatCannotBeRestored(t *testing.T) {
	const debian, rhel, alpine = "/etc/iptables/rules.v4", "/etc/sysconfig/iptables-config", "/etc/conf.d/iptables"
	for name, tc := range map[string]struct {
		file, text string
		found      string
	}{
		"nothing":               {"", "", ""},
		"rules of others":       {debian, "*filter\n-A INPUT -m set --match-set others src -j DROP\nCOMMIT\n", ""},
		"rules without sets":    {debian, "*raw\n:SHOAL-PASS - [0:0]\n-A PREROUTING -j SHOAL-PASS\nCOMMIT\n", ""},
		"rules that ask sets":   {debian, "*filter\n-A SHOAL-VIP ! -i lo -m set ! --match-set SHOAL-BRIDGES src,src -j REJECT\nCOMMIT\n", "sed -i '/SHOAL-/d' " + debian},
		"rules that map by one": {debian, "*mangle\n-A SHOAL-MARK -p tcp -j SET --map-set SHOAL-VIP dst --map-mark\nCOMMIT\n", "sed"},
		"saved at stop":         {rhel, "# a comment\nIPTABLES_SAVE_ON_STOP=\"yes\"\n", `Set IPTABLES_SAVE_ON_STOP="no"`},
		"saved without quotes":  {alpine, "SAVE_ON_STOP=yes\n", `Set SAVE_ON_STOP="no"`},
		"not saved":             {rhel, "IPTABLES_SAVE_ON_STOP=\"no\"\n#IPTABLES_SAVE_ON_STOP=\"yes\"\n", ""},
	} {
		root := t.TempDir()
		if tc.file != "" {
			if err := os.MkdirAll(filepath.Dir(root+tc.file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root+tc.file, []byte(tc.text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := FindSaved(root)
		if err != nil || (len(got) > 0) != (tc.found != "") || len(got) > 0 && !strings.Contains(got[0].Reason, tc.found) {
			t.Errorf("%s: %v, %v; want %q", name, got, err, tc.found)
		}
	}
}
