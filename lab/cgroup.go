package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"shoal/lab/kernel"
)

// controlGroup is the path of the lab's control group in each hierarchy. The job's group is above it, so that the lab's is
// removed with the job at the latest.
func (w *world) controlGroup() string {
	return filepath.Join(os.Getenv("LAB_NAME"), filepath.Base(w.dir))
}

// ControlGroups are the folders of the control groups that the lab and its engines made.
func (l *Lab) ControlGroups() []string { return kernel.ControlGroups(l.controlGroup()) }

// controlGroup is the path of the machine's control group. The engine's containers have groups below it.
func (m *machine) controlGroup() string { return filepath.Join(m.w.controlGroup(), m.name) }

// processesGroup is the name of the group, below the machine's, that has its processes. The machine's own group has none: a
// group that enables controllers for groups below it may not have any (Documentation/admin-guide/cgroup-v2.rst).
const processesGroup = "machine"

// Cgroup is the folder of the machine's control group in the version 2 hierarchy. All processes of the machine, containers
// included, are in groups below it, and no others are. It is empty where no such hierarchy is mounted.
func (m *Machine) Cgroup() string { return m.machine.cgroup() }

func (m *machine) cgroup() string {
	top := kernel.UnifiedHierarchy()
	if top == "" {
		return ""
	}
	return filepath.Join(top, m.controlGroup())
}

// makeCgroup makes the machine's control group. Its path is in a file for the script `on`.
func (m *machine) makeCgroup() error {
	group := m.cgroup()
	if group == "" {
		return nil
	}
	group = filepath.Join(group, processesGroup)
	if err := os.MkdirAll(group, 0o755); err != nil {
		return fmt.Errorf("make its control group: %w", err)
	}
	var err error
	if m.group, err = os.Open(group); err != nil {
		return fmt.Errorf("open its control group: %w", err)
	}
	return os.WriteFile(filepath.Join(m.dir, "cgroup"), []byte(group+"\n"), 0o644)
}

// placed has a command start in the machine's control group: clone3(2) with CLONE_INTO_CGROUP, Linux 5.7.
func (m *machine) placed(cmd *exec.Cmd) *exec.Cmd {
	if m.group == nil {
		return cmd
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(m.group.Fd())
	return cmd
}
