// Package lab makes hosts to test shoal on: each a namespace of its own with a real Docker engine, on a kernel that has
// what they need, joined to each other and to a client outside by a wire. An end-to-end test then reads like a story:
//
//	func TestServiceAnswersByName(t *testing.T) {
//		l := lab.New(t)
//		a := l.Host("a")
//		a.StartAgent()
//		a.Docker("run", "-d", "-l", "shoal.service=web", "whoami")
//		lab.Eventually(t, 5*time.Second, "the name has an address", func() error {
//			_, err := a.TryDocker("run", "--rm", "--dns", "10.96.0.10", "whoami", "nslookup", "web.mesh.internal")
//			return err
//		})
//	}
//
// # Running
//
// A program that uses the lab runs as `lab run -- PROGRAM`, which finds it a kernel (package shoal/lab/kernel) and sets
// LAB; without it [New] fails at once and says so. --plane says which data plane the kernel must do for; [Plane] tells the
// program, and SHOAL_DATA_PLANE tells the agents. Beside the lab binary stand shoal, which [Host.StartAgent] starts, and
// whoami.
//
// # What there is
//
//	outside 192.168.77.1        a 192.168.77.11        b 192.168.77.12     ...
//	      └──────────────────────────┴────── wire ───────────┴───
//
// The wire is a bridge in a namespace of its own. A [Machine] is a network, mount, process, IPC and host name namespace
// with one interface, eth0, on it. Outside is a plain machine, for clients that are not part of the cluster, and the others'
// default gateway. A [Host] is a machine with an engine: docker0 is 10.101.0.1/24 on the first, 10.102.0.1/24 on the second and
// so on, and networks made later get /24s of the same /16. Its image store holds one image, whoami: the program
// shoal/lab/whoami, which serves on port 8000 where it is given no other command, busybox with all its applets, getent, and the C
// library, so that names are looked up as in most containers. In scripts for busybox's shell write /bin/whoami: it
// has an applet of that name.
//
// Every machine has its own /run, /etc/resolv.conf (naming Outside, where a test may run a DNS server) and /proc; all other
// files are shared with the test. So the sockets of engines and agents, in the lab's folder, can be dialled from the
// test, and /proc/PID/ns/net of [Machine.Netns] opened by it.
//
// Where a version 2 hierarchy of control groups is mounted, each machine has a group of its own in it, [Machine.Cgroup], with
// all its processes and containers. Agents are told it by SHOAL_SOCKET_CGROUP. /sys/fs/bpf is each machine's own too.
//
// # Looking at the kernel
//
// Tests read what a host balances by [Host.Frontends] and [Host.Connections], which know each data plane's tools. What
// only some kernels have, a test asks for by [Needs] or [Has].
//
// # Breaking things
//
// [Machine.CutOff] unplugs a machine, [Lab.CutApart] keeps some from each other, [Machine.Delay] makes a link late, and
// [Host.Skew] an agent's clock wrong. Processes are killed and stopped by signals: [Host.Agent], [Host.Engine].
//
// # Failure
//
// Methods fail the test where what they are asked does not work; those named Try return an error. A lab that several
// tests share is opened by [Open] in TestMain, and each test works on it [Lab.With] its own testing.T. When a test fails, the ends
// of the logs of its agents and engines are logged.
//
// A lab owns the processes it starts, its namespaces, its control groups and its folder under the temporary folder, and ends
// them all: a machine's processes, containers included, live in its process namespace and cannot outlive it. It touches nothing
// else of the kernel.
package lab
