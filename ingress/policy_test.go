package ingress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"shoal/kernel/sockets"
	"shoal/lab/wait"
	"shoal/lb"
	"shoal/model"
)

// hostWith is the root of a host with these files.
func hostWith(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestPortsOfSSHD(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  []uint16
	}{
		"no sshd":             {nil, nil},
		"defaults":            {map[string]string{"/etc/ssh/sshd_config": "#Port 2222\nPermitRootLogin no\n"}, nil},
		"several":             {map[string]string{"/etc/ssh/sshd_config": "Port 2222\n\tport=2223\nPort \"2224\"\n"}, []uint16{2222, 2223, 2224}},
		"addresses":           {map[string]string{"/etc/ssh/sshd_config": "ListenAddress 0.0.0.0:2222\nListenAddress [::]:2223\nListenAddress 192.0.2.1\nlistenaddress host:2224\n"}, []uint16{2222, 2223, 2224}},
		"included":            {map[string]string{"/etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf", "/etc/ssh/sshd_config.d/a.conf": "Port 2222"}, []uint16{2222}},
		"included nearby":     {map[string]string{"/etc/ssh/sshd_config": "Include more other", "/etc/ssh/more": "Port 2222", "/etc/ssh/other": "Port 2223"}, []uint16{2222, 2223}},
		"included by itself":  {map[string]string{"/etc/ssh/sshd_config": "Include sshd_config\nPort 2222"}, []uint16{2222}},
		"nonsense":            {map[string]string{"/etc/ssh/sshd_config": "Port\nPort x\nPort 70000\nPort 0\nListenAddress :\n"}, nil},
		"a socket of systemd": {map[string]string{"/usr/lib/systemd/system/ssh.socket": "[Socket]\nListenStream=22\nListenStream = 0.0.0.0:2222\n", "/etc/systemd/system/ssh.socket.d/more.conf": "[Socket]\nListenStream=\nListenStream=[::]:2223\n", "/etc/systemd/system/other.socket": "ListenStream=1234"}, []uint16{22, 2222, 2223}},
		"a generated socket":  {map[string]string{"/run/systemd/generator/ssh.socket.d/addresses.conf": "[Socket]\nListenStream=0.0.0.0:2222\n"}, []uint16{2222}},
	} {
		if got := slices.Sorted(maps.Keys(sshPorts(hostWith(t, test.files)))); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

func TestPolicy(t *testing.T) {
	root := hostWith(t, map[string]string{"/etc/ssh/sshd_config": "Port 2222"})
	own := map[lb.Key]string{{Protocol: model.UDP, Port: 7946}: "shoal's own"}
	ranges := func(all ...string) (rs []PortRange) {
		for _, s := range all {
			r, err := ParsePortRange(s)
			if err != nil {
				t.Fatal(err)
			}
			rs = append(rs, r)
		}
		return rs
	}
	seen := NewPolicy(nil, own, root)
	seen.saw(2022)
	for _, test := range []struct {
		name   string
		policy *Policy
		key    lb.Key
		say    string // a part of the reason; "": it may be published
	}{
		{"no policy", nil, lb.Key{Protocol: model.TCP, Port: 22}, ""},
		{"any other", seen, lb.Key{Protocol: model.TCP, Port: 80}, ""},
		{"ssh's, though nobody listens", seen, lb.Key{Protocol: model.TCP, Port: 22}, "sshd's"},
		{"where sshd is configured to listen", seen, lb.Key{Protocol: model.TCP, Port: 2222}, "sshd's"},
		{"where sshd was seen", seen, lb.Key{Protocol: model.TCP, Port: 2022}, "sshd's"},
		{"the same number in UDP", seen, lb.Key{Protocol: model.UDP, Port: 22}, ""},
		{"one of shoal's own", seen, lb.Key{Protocol: model.UDP, Port: 7946}, "shoal's own"},
		{"within a range", NewPolicy(ranges("80", "8000-8999"), own, root), lb.Key{Protocol: model.TCP, Port: 8999}, ""},
		{"the only one", NewPolicy(ranges("80", "8000-8999"), own, root), lb.Key{Protocol: model.TCP, Port: 80}, ""},
		{"out of all ranges", NewPolicy(ranges("80", "8000-8999"), own, root), lb.Key{Protocol: model.TCP, Port: 9000}, "80, 8000-8999: publish one of them"},
		{"sshd's, within a range", NewPolicy(ranges("1-65535"), own, root), lb.Key{Protocol: model.TCP, Port: 22}, "sshd's"},
		{"shoal's, within a range", NewPolicy(ranges("1-65535"), own, root), lb.Key{Protocol: model.UDP, Port: 7946}, "shoal's own"},
	} {
		err := test.policy.Refuse(test.key)
		if (err == nil) != (test.say == "") || err != nil && (!strings.Contains(err.Error(), test.say) || model.CodeOf(err, "") != model.PublishRefused) {
			t.Errorf("%s: %v, want %q", test.name, err, test.say)
		}
	}
	for _, s := range []string{"", "0", "x", "1-", "2-1", "1-65536", "-1", "1-2-3"} {
		if r, err := ParsePortRange(s); err == nil {
			t.Errorf("%q is taken for %v", s, r)
		}
	}
}

func TestARefusedPortIsNotClaimed(t *testing.T) {
	policy := NewPolicy(nil, nil, t.TempDir())
	claim, _, problems := new(Claimer).Claims(snapshotOf(t, "host b\ntask web b 1 22:80 80:80"), policy)
	if len(claim) != 1 || claim[0].Port != 80 {
		t.Errorf("claimed are %v", claim)
	}
	if len(problems) != 1 || problems[0].Code != model.PublishRefused || !strings.Contains(problems[0].Reason, "publish 22/tcp for s/web") {
		t.Errorf("problems %+v", problems)
	}
}

func TestListenersOfUDPAreConfirmed(t *testing.T) {
	tcp := sockets.Listener{Protocol: model.TCP, Addr: netip.MustParseAddrPort("0.0.0.0:80"), Inode: 1}
	udp := sockets.Listener{Protocol: model.UDP, Addr: netip.MustParseAddrPort("0.0.0.0:40000"), Inode: 2}
	other := udp
	other.Inode = 3
	var s seen
	for i, step := range []struct {
		ls      []sockets.Listener
		changed bool
	}{
		{nil, false},
		{[]sockets.Listener{tcp}, true},
		{[]sockets.Listener{tcp}, false},
		{[]sockets.Listener{tcp, udp}, false}, // perhaps a client's, for a moment
		{[]sockets.Listener{tcp, other}, false},
		{[]sockets.Listener{tcp, other}, true},
		{[]sockets.Listener{tcp, other}, false},
		{[]sockets.Listener{other}, true},
		{nil, true},
	} {
		if got := s.update(step.ls); got != step.changed {
			t.Errorf("look %d: changed %t", i+1, got)
		}
	}
}

// TestWhoListensLaterIsNoticed with real sockets: within two seconds, and what the port is asked about says who it is.
func TestWhoListensLaterIsNoticed(t *testing.T) {
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	number := netip.MustParseAddrPort(at).Port()
	free.Close()
	g, err := New(Options{Pool: netip.MustParsePrefix("10.96.0.0/16"), StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	g.published = publishedPorts(&model.Snapshot{Published: []model.PortClaim{{Protocol: model.TCP, Port: number}}})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changed := g.Occupied(ctx)
	key := lb.Key{Protocol: model.TCP, Port: number}
	admit := func() error {
		f := &lb.Frontend{Key: key, Service: model.ServiceID{Stack: "s", Name: "web"}}
		return g.Admit(t.Context(), []*lb.Frontend{f}, func(lb.Key) bool { return true })[key]
	}
	if err := admit(); err != nil {
		t.Fatalf("nobody listens yet: %v", err)
	}
	l, err := net.Listen("tcp4", at)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	select {
	case <-changed:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody notices")
	}
	t.Logf("noticed after %s", time.Since(start))
	if err := admit(); model.CodeOf(err, "") != model.PortInUse || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("who has it: %v", err)
	}
	l.Close()
	wait.For(t, 20*time.Second, "that it is free again is noticed", func() bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	})
	if err := admit(); err != nil {
		t.Errorf("it is free again: %v", err)
	}
}

// sshdEnv has this binary be a process that listens, as root if it is, and as another user.
const sshdEnv = "SHOAL_TEST_SSHD"

// TestOnlyRootsSSHDHasItsPortRefused though every user may call a process sshd.
func TestOnlyRootsSSHDHasItsPortRefused(t *testing.T) {
	if os.Getenv(sshdEnv) != "" {
		listenAsSSHD(t)
		return
	}
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	sshd := filepath.Join(t.TempDir(), "sshd")
	if err := os.Symlink(binary, sshd); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(sshd, "-test.run=^"+t.Name()+"$")
	cmd.Env, cmd.Stderr = append(os.Environ(), sshdEnv+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), cmd.Wait() }()

	policy := NewPolicy(nil, nil, t.TempDir())
	g, err := New(Options{Policy: policy, StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ports := map[string]uint16{} // by who listens
	for lines := bufio.NewScanner(out); lines.Scan() && lines.Text() != "ready"; {
		var who string
		var number uint16
		if _, err := fmt.Sscan(lines.Text(), &who, &number); err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		ports[who] = number
	}
	if _, ok := ports["user"]; !ok {
		t.Fatal("it does not listen")
	}
	g.look()
	refused := map[string]bool{}
	for who, number := range ports {
		refused[who] = policy.Refuse(lb.Key{Protocol: model.TCP, Port: number}) != nil
	}
	if refused["user"] {
		t.Error("the port of a user who is not root is refused")
	}
	if _, ok := ports["root"]; ok && !refused["root"] {
		t.Error("the port of root's sshd is not refused")
	}
	t.Logf("ports %v, refused %v", ports, refused)
}

func listenAsSSHD(t *testing.T) {
	listen := func(who string) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		fmt.Println(who, l.Addr().(*net.TCPAddr).Port)
	}
	if os.Getuid() == 0 {
		listen("root")
		if err := syscall.Setuid(65534); err != nil {
			t.Fatal(err)
		}
	}
	listen("user")
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
}

// BenchmarkLook is what is done once a second.
func BenchmarkLook(b *testing.B) {
	g, err := New(Options{StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	g.published = map[port]bool{{model.TCP, 8080}: true, {model.UDP, 5353}: true}
	for b.Loop() {
		g.look()
	}
}
