package backup

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Manifest says what a backup is of.
type Manifest struct {
	Format  int       `json:"format"`  // 1
	Version string    `json:"version"` // of shoal
	Node    string    `json:"node"`    // the host that made it
	Created time.Time `json:"created"`
	Role    string    `json:"role"` // of that host in the store
}

// format is the only one so far.
const format = 1

// The entries of the archive. The snapshot is in pieces, as its length is not
// known before it has been read.
const (
	manifestEntry = "manifest.json"
	filesFolder   = "files/"
	snapshotPart  = "snapshot/"
	endEntry      = "end"

	pieceBytes   = 4 << 20
	maxFileBytes = 1 << 20
)

// Write writes a backup: its files by name, and the snapshot.
func Write(w io.Writer, m Manifest, files map[string][]byte, snapshot io.Reader) error {
	m.Format = format
	head, err := json.Marshal(m)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	put := func(name string, b []byte) error {
		err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b)), ModTime: m.Created})
		if err == nil {
			_, err = t.Write(b)
		}
		return err
	}
	if err := put(manifestEntry, head); err != nil {
		return err
	}
	for name, b := range files {
		if err := put(filesFolder+name, b); err != nil {
			return err
		}
	}
	piece := make([]byte, pieceBytes)
	for i := 0; ; i++ {
		n, err := io.ReadFull(snapshot, piece)
		if n > 0 {
			if err := put(fmt.Sprintf("%s%08d", snapshotPart, i), piece[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the store's snapshot: %w", err)
		}
	}
	if err := put(endEntry, nil); err != nil {
		return err
	}
	return t.Close()
}

// errBroken is the error of what is no whole backup.
var errBroken = errors.New("it is no whole backup of shoal's: it broke off, or is something else")

// Read reads a backup. The snapshot is written to the writer, the rest returned.
func Read(r io.Reader, snapshot io.Writer) (m Manifest, files map[string][]byte, err error) {
	fail := func(err error) (Manifest, map[string][]byte, error) {
		return m, nil, fmt.Errorf("read the backup: %w", err)
	}
	t := tar.NewReader(r)
	files = map[string][]byte{}
	next := 0
	for first := true; ; first = false {
		h, err := t.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
			return fail(errBroken)
		}
		if err != nil {
			return fail(err)
		}
		if first != (h.Name == manifestEntry) || h.Typeflag != tar.TypeReg {
			return fail(errBroken)
		}
		name, isFile := strings.CutPrefix(h.Name, filesFolder)
		switch {
		case first:
			if err := json.NewDecoder(io.LimitReader(t, maxFileBytes)).Decode(&m); err != nil {
				return fail(errBroken)
			}
			if m.Format != format {
				return fail(fmt.Errorf("its format is %d, this version of shoal reads %d: use the version %s that made it", m.Format, format, m.Version))
			}
		case h.Name == endEntry:
			return m, files, nil
		case isFile && name == path.Base(name) && name != "." && h.Size <= maxFileBytes:
			if files[name], err = io.ReadAll(t); err != nil {
				return fail(err)
			}
		case h.Name == fmt.Sprintf("%s%08d", snapshotPart, next):
			next++
			if _, err := io.Copy(snapshot, t); err != nil {
				return fail(err)
			}
		default:
			return fail(errBroken)
		}
	}
}
