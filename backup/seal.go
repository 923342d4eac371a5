package backup

import (
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// Seal encrypts what is written with a passphrase. Closing ends it; w stays open.
func Seal(w io.Writer, passphrase string) (io.WriteCloser, error) {
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypt the backup: %w", err)
	}
	return age.Encrypt(w, to)
}

// Unseal decrypts what [Seal] encrypted.
func Unseal(r io.Reader, passphrase string) (io.Reader, error) {
	by, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("decrypt the backup: %w", err)
	}
	plain, err := age.Decrypt(r, by)
	if none := (*age.NoIdentityMatchError)(nil); errors.As(err, &none) {
		return nil, errors.New("decrypt the backup: the passphrase is another")
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt the backup: %w", err)
	}
	return plain, nil
}
