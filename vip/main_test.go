package vip

import (
	"os"
	"testing"

	"shoal/store"
)

func TestMain(m *testing.M) {
	if store.IsChild() {
		os.Exit(store.RunChild(nil))
	}
	os.Exit(m.Run())
}
