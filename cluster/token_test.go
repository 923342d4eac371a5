package cluster

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseToken(t *testing.T) {
	ca := fingerprint{1, 2, 3}
	s := newSecret()
	good := formatToken(ca, s)
	caText := base32Text.EncodeToString(ca[:])
	secretText := base32Text.EncodeToString(s[:])
	for _, tt := range []struct {
		name, text string
		ok         bool
	}{
		{"as printed", good, true},
		{"with a newline copied along", " " + good + "\n", true},
		{"empty", "", false},
		{"cut short", good[:len(good)-1], false},
		{"too long", good + "A", false},
		{"another version", strings.Replace(good, "-1-", "-2-", 1), false},
		{"lower case", strings.ToLower(good), false},
		{"without a secret", tokenPrefix + caText, false},
		{"with bits set beyond the fingerprint", tokenPrefix + caText[:51] + "B-" + secretText, false},
		{"broken by a newline", good[:20] + "\n" + good[20:], false},
		{"with a newline for a letter", good[:20] + "\n" + good[21:], false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gotCA, gotSecret, err := parseToken(tt.text)
			if tt.ok && (err != nil || gotCA != ca || gotSecret != s) {
				t.Errorf("parseToken: %v, not what was formatted", err)
			}
			if !tt.ok && err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func TestSecretIsNotPrinted(t *testing.T) {
	s := newSecret()
	if got := fmt.Sprintf("%v %s %+v", s, s, s); strings.Contains(got, fmt.Sprint(s[0], s[1])) || got != "(secret) (secret) (secret)" {
		t.Errorf("a secret prints as %s", got)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(formatToken(fingerprint{}, secret{}))
	f.Add("SHOAL-1--")
	f.Add("SHOAL-1-AAAA-BBBB")
	f.Fuzz(func(t *testing.T, text string) {
		ca, s, err := parseToken(text)
		if err == nil && formatToken(ca, s) != strings.TrimSpace(text) {
			t.Errorf("%q and %q are one token", text, formatToken(ca, s))
		}
	})
}
