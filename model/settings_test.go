package model

import (
	"strings"
	"testing"
)

func TestSettingsThatDifferAreNamedWithBothValues(t *testing.T) {
	mine := NewSettings(map[string]string{"zone": "mesh.internal", "subnet-pool": "10.244.0.0/16, 10.245.0.0/16", "vni": "7"})
	theirs := NewSettings(map[string]string{"zone": "other.internal", "subnet-pool": "10.244.0.0/16,10.245.0.0/16"})
	err := mine.Agree(theirs, "a", "b")
	if err == nil || !strings.Contains(err.Error(), "--zone is mesh.internal on a, and other.internal on b") {
		t.Fatalf("%v", err)
	}
	if strings.Contains(err.Error(), "subnet-pool") || strings.Contains(err.Error(), "vni") {
		t.Errorf("what is alike, or told by one alone, is named: %v", err)
	}
	for _, same := range []Settings{mine, ""} {
		if err := mine.Agree(same, "a", "b"); err != nil {
			t.Errorf("%q: %v", same, err)
		}
	}
}
