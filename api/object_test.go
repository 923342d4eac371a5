package api

import (
	"encoding/json"
	"testing"
	"time"
)

func TestEachObjectSaysItsVersion(t *testing.T) {
	type thing struct {
		Took Duration `json:"took,omitempty"`
	}
	for want, v := range map[string]any{
		`{"apiVersion":"shoal/v1","took":"1m30s"}`:                          thing{Duration(90 * time.Second)},
		`{"apiVersion":"shoal/v1"}`:                                         thing{},
		`[{"apiVersion":"shoal/v1","took":"1s"},{"apiVersion":"shoal/v1"}]`: []thing{{Duration(time.Second)}, {}},
		`[]`: []thing{},
		`{"apiVersion":"shoal/v1","a":"<b> & c"}`: map[string]string{"a": "<b> & c"},
		`[1,2]`:  []int{1, 2},
		`"text"`: "text",
		`null`:   nil,
	} {
		got, err := Marshal(v)
		if err != nil || string(got) != want {
			t.Errorf("%#v: %s, %v, want %s", v, got, err, want)
		}
	}
	var back thing
	if err := json.Unmarshal([]byte(`{"apiVersion":"shoal/v1","took":"1m30s"}`), &back); err != nil || back.Took != Duration(90*time.Second) {
		t.Errorf("read back: %v, %v", back, err)
	}
}
