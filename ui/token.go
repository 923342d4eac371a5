package ui

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"shoal/internal/statefile"
)

// tokenFile is where the token is, in the state folder. It stays over restarts: a
// page that is open goes on. Removed, there is another with the next start.
const tokenFile = "ui-token"

// Token is the secret by which data is given, which the state folder keeps in a file
// of root's. It is made where there is none.
func Token(stateDir string) (string, error) {
	path := filepath.Join(stateDir, tokenFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if token := strings.TrimSpace(string(b)); len(token) >= 26 {
			return token, os.Chmod(path, 0o600)
		}
		return "", fmt.Errorf("%s holds no token of the page: remove it, and start the agent again", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the page's token: %w", err)
	}
	token := rand.Text() + rand.Text()
	if err := statefile.Write(path, []byte(token+"\n")); err != nil {
		return "", fmt.Errorf("keep the page's token: %w", err)
	}
	return token, nil
}
