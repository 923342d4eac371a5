package cluster

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// A join token is written SHOAL-1-CA-SECRET: the SHA-256 of the CA's
// certificate (DER) and 160 random bits, both in unpadded base32 (RFC 4648
// section 6). The 1 is the version of all this.
const (
	tokenPrefix = "SHOAL-1-"
	secretBytes = 20
)

type fingerprint [sha256.Size]byte

func (f fingerprint) String() string { return hex.EncodeToString(f[:]) }

type secret [secretBytes]byte

// String keeps the secret out of logs and errors.
func (secret) String() string { return "(secret)" }

// hash is what the store keeps of a secret. A secret has enough bits not to be
// found by trying, so a plain hash will do.
func (s secret) hash() [sha256.Size]byte {
	return sha256.Sum256(append([]byte("shoal join token 1\x00"), s[:]...))
}

// tokenID names a token in the store, in logs and on the command line, without
// telling its secret.
func tokenID(hash [sha256.Size]byte) string { return hex.EncodeToString(hash[:6]) }

func newSecret() (s secret) {
	rand.Read(s[:]) // never fails, see its documentation
	return s
}

var base32Text = base32.StdEncoding.WithPadding(base32.NoPadding)

func formatToken(ca fingerprint, s secret) string {
	return tokenPrefix + base32Text.EncodeToString(ca[:]) + "-" + base32Text.EncodeToString(s[:])
}

func sum(cert *x509.Certificate) fingerprint { return sha256.Sum256(cert.Raw) }

var errToken = errors.New("this is no join token: it has the form SHOAL-1-…-… and must be copied whole; make one with: shoal token create")

// parseToken reads what formatToken writes and nothing else, but for blanks
// around it.
func parseToken(text string) (ca fingerprint, s secret, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	if !ok {
		return ca, s, errToken
	}
	caText, secretText, _ := strings.Cut(rest, "-")
	if !decodeExact(ca[:], caText) || !decodeExact(s[:], secretText) {
		return fingerprint{}, secret{}, errToken
	}
	return ca, s, nil
}

// CheckToken reports a text that is no join token. Whether the token is good for anything
// its cluster alone knows.
func CheckToken(text string) error {
	_, _, err := parseToken(text)
	return err
}

// TokenID is the [Token.ID] of a token's text; "" if that is none.
func TokenID(text string) string {
	_, s, err := parseToken(text)
	if err != nil {
		return ""
	}
	return tokenID(s.hash())
}

// ErrNoToken is the error of a token that was not made, or is revoked.
var ErrNoToken = errors.New("no join token")

// findToken is the ID of the token that is meant, see [Registry.RemoveToken].
func findToken(tokens []Token, ref string) (string, error) {
	if id := TokenID(ref); id != "" {
		ref = id // and not its secret in an error
	}
	var ids, found []string
	for _, t := range tokens {
		ids = append(ids, t.ID)
		if t.ID == ref {
			return t.ID, nil
		}
		if ref != "" && strings.HasPrefix(t.ID, ref) {
			found = append(found, t.ID)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("several join tokens begin with %q: write more of one of %s", ref, strings.Join(found, ", "))
	case len(ids) == 0:
		return "", fmt.Errorf("%w %.80q: there is none at all", ErrNoToken, ref)
	}
	return "", fmt.Errorf("%w %.80q: there are %s; see: shoal token ls", ErrNoToken, ref, strings.Join(ids, ", "))
}

// decodeExact fills dst from its one base32 text. (The decoder passes over
// newlines and over the bits that are left at the end.)
func decodeExact(dst []byte, text string) bool {
	if len(text) != base32Text.EncodedLen(len(dst)) {
		return false
	}
	b, err := base32Text.DecodeString(text)
	if err != nil || base32Text.EncodeToString(b) != text {
		return false
	}
	copy(dst, b)
	return true
}
