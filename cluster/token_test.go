package cluster

import (
	"fmt"
	"strings"
	"testing"
)

func TestATokenIsFoundByItsID(t *testing.T) {
	secret := newSecret()
	text := formatToken(fingerprint{}, secret)
	all := []Token{{ID: "3f2a00000001"}, {ID: "3f2b00000002"}, {ID: TokenID(text)}}
	for _, test := range []struct {
		tokens    []Token
		ref, want string // want: the ID, or after a "!" a part of the error
	}{
		{all, "3f2a00000001", "3f2a00000001"},
		{all, "3f2a", "3f2a00000001"},
		{all, text, TokenID(text)},
		{all, "3f2", "!several"},
		{all, "wrong", "!3f2b00000002"},
		{all, "", "!no join token"},
		{all[:2], text, "!no join token"},
		{nil, "3f2a", "!none at all"},
	} {
		got, err := findToken(test.tokens, test.ref)
		if part, fails := strings.CutPrefix(test.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), text) {
				t.Errorf("%q of %v: %s, %v; want an error with %q", test.ref, test.tokens, got, err, part)
			}
		} else if err != nil || got != test.want {
			t.Errorf("%q of %v: %s, %v; want %s", test.ref, test.tokens, got, err, test.want)
		}
	}
}

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
