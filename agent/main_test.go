package agent

import (
	"os"
	"testing"

	"shoal/cluster"
	"shoal/store"
)

func TestMain(m *testing.M) {
	if store.IsChild() {
		os.Exit(store.RunChild(cluster.RevokedBy))
	}
	os.Exit(m.Run())
}
