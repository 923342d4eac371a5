package statefile

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestNothingElseRenamesState: of the program that hosts run, nothing renames what it keeps but this package.
func TestNothingElseRenamesState(t *testing.T) {
	renames := regexp.MustCompile(`\bos\.Rename\(|\b(unix|syscall)\.Rename(at2?)?\(`)
	module := filepath.Join("..", "..")
	var read int
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(module, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains([]string{"lab", "e2e", "bench", "bin", "packaging"}, rel) || strings.HasPrefix(rel, ".") && rel != "."):
			return fs.SkipDir
		case filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || rel == "api/server.go": // a socket, which a restart makes anew
			return nil
		}
		read++
		b, err := os.ReadFile(path)
		if found := renames.Find(b); found != nil {
			t.Errorf("%s calls %s…): statefile.Rename is on the disk when it returns", rel, found)
		}
		return err
	})
	if err != nil || read < 100 {
		t.Errorf("%d files were read: %v", read, err)
	}
}
