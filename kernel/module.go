package kernel

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Need makes sure that a facility of the kernel is there: where path (a file
// that exists only with it) is missing, module is loaded, with these parameters
// ("conn_tab_bits=16"). The error says what to do.
func Need(ctx context.Context, path, module string, params ...string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	Wrote("module", 1)
	out, err := exec.CommandContext(ctx, "modprobe", append([]string{module}, params...)...).CombinedOutput()
	if _, gone := os.Stat(path); gone == nil {
		return nil
	}
	why := string(bytes.TrimSpace(out))
	if why == "" && err != nil {
		why = err.Error()
	}
	if why == "" {
		why = path + " did not appear"
	}
	return fmt.Errorf("this kernel has no %s (%s): run `modprobe %s` on the host, or install the package with the kernel's extra modules", module, why, module)
}
