package kernel

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Job is one command to run on a kernel with what a data plane of shoal needs.
type Job struct {
	// Args is the command. Its first element is looked for on PATH where it has no slash.
	Args []string
	// Dir is the folder to run in; the current one where empty.
	Dir string
	// Env is the environment, as [Environ] selects it. Init adds LAB, the path of this program, LAB_KERNEL, which is
	// "native" or "uml", LAB_PLANE, the data plane, and LAB_NAME, which no other job on this machine has; and it puts
	// the folder of this program first on PATH.
	Env []string
	// Plane is the data plane that the kernel must have what it takes for: IPVS, NFTables or, where empty, Auto. The
	// job learns which it is.
	Plane string
	// SocketOff has agents lead nobody in connect(), so that the data plane balances all connections: LAB_SOCKET is "off".
	SocketOff bool
	// Terminal says that the job talks to a person: it gets this process's terminal as its own.
	Terminal bool

	// Mem is the memory of User-Mode Linux, in its own notation ("512M", "4G"). On this kernel it has no effect.
	Mem string `json:"-"`
	// Timeout is how long the job may take, starting up included. Zero is no limit.
	Timeout time.Duration `json:"-"`
}

// Job passes from Run to Init in a folder that holds these files, named by a variable of the environment.
const (
	jobEnv     = "LAB_JOB"
	jobFile    = "job.json"
	statusFile = "status"
)

// order is what Init reads: the job, and what Run decided about it.
type order struct {
	Job
	UML        bool
	Self       string // path of this program
	Rows, Cols uint16 // size of the terminal
}

// Environ selects from environment what a job is to see: where programs and home are, the language and terminal, and
// the settings of Go, of shoal and of the lab. All else stays out, so that a job does not depend on who runs it.
func Environ(environment []string) []string {
	names := []string{"PATH", "HOME", "USER", "LANG", "TERM", "TZ", "CI"}
	prefixes := []string{"GO", "SHOAL_", "LAB_"}
	var kept []string
	for _, v := range environment {
		name, _, _ := strings.Cut(v, "=")
		if name == jobEnv {
			continue
		}
		if slices.Contains(names, name) || slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			kept = append(kept, v)
		}
	}
	return kept
}

func (o *order) write(dir string) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write the job: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, jobFile), b, 0o600)
}

func readOrder(dir string) (*order, error) {
	b, err := os.ReadFile(filepath.Join(dir, jobFile))
	if err != nil {
		return nil, fmt.Errorf("read the job: %w", err)
	}
	o := new(order)
	if err := json.Unmarshal(b, o); err != nil {
		return nil, fmt.Errorf("read the job in %s: %w", dir, err)
	}
	return o, nil
}
