package agent

import (
	"strings"
	"testing"

	"shoal/model"
)

func TestAFullStoreIsAProblem(t *testing.T) {
	if ps := storeProblems("a", false, false); len(ps) > 0 {
		t.Errorf("a store that is not full: %v", ps)
	}
	for external, says := range map[bool]string{false: "servers' logs", true: "etcdctl"} {
		ps := storeProblems("a", true, external)
		if len(ps) != 1 || ps[0].Code != model.StoreFull || !strings.Contains(ps[0].Reason, says) {
			t.Errorf("a full store: %v", ps)
		}
	}
}
