package agent

import "testing"

func TestAFolderThatIsOnAnotherFileSystemThanTheHosts(t *testing.T) {
	here := t.TempDir()
	for _, tt := range []struct {
		own, first string
		want       bool
	}{
		{here, here, false},
		{here, "/proc/1", true},
		{here, "/nonexistent", false},
		{"/nonexistent", here, false},
	} {
		if got := private(tt.own, tt.first); got != tt.want {
			t.Errorf("%s and %s: %v, want %v", tt.own, tt.first, got, tt.want)
		}
	}
}
