package store

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"shoal/store/etcd"

	"golang.org/x/sys/unix"
)

// server is the etcd of this host, which runs in a process of its own: see
// [RunChild].
type server struct {
	endpoint string // of its unix socket, for clients
	member   uint64 // its ID
	process  *os.Process
	started  time.Time
	unlisted bool        // clients are not sent to it: it has no vote yet, or is about to leave
	quiet    atomic.Bool // it is about to end: what it logs of that is no news
	closing  atomic.Bool

	agent  net.Conn      // this end of the connection to it
	leads  chan struct{} // closed once it has found a leader
	exited chan struct{} // closed when its process has ended
	why    string        // it ended by itself; to be read once exited is closed
}

// serverConfig says how etcd is started. It is handed to its process.
type serverConfig struct {
	Dir  string // its data is in Dir/etcd
	Name string
	// Peers is how other hosts reach it; nil: not at all.
	Peers *Peers
	// Join are the peer URLs of the members it becomes one of, by name, itself
	// among them; nil: it has data, or is the first.
	Join map[string]string
	// Unchecked leaves out that all voters are connected for 5 s before one
	// more is added or removed.
	Unchecked bool
	// Unsynced leaves out waiting for the disk.
	Unsynced      bool
	Quota         int64         // in bytes; 0: etcdQuota
	MaintainEvery time.Duration // see maintain; 0: maintainEvery
}

// dataDir is where etcd keeps its data.
func dataDir(dir string) string { return filepath.Join(dir, "etcd") }

// hasData tells whether there is an etcd's log in a state folder: without it etcd would
// begin a new store.
func hasData(dir string) bool {
	files, _ := filepath.Glob(filepath.Join(dataDir(dir), "member", "wal", "*.wal")) // the pattern is well formed
	return len(files) > 0
}

// errDataGone is why a server of a cluster does not start without its data: a new store, that is
// empty, would take from all hosts what they have, if it was alone, or be a second one.
func errDataGone(dir string, alone bool) error {
	if !alone {
		return fmt.Errorf("the store's data are gone from %s: restart the agent, it goes on with those of the other hosts that serve the store", dataDir(dir))
	}
	return fmt.Errorf("the store's data are gone from %s: stop the agent and put them back, or %s", dataDir(dir), newStore)
}

const newStore = "restore a backup (shoal store restore), or stop the agent and make a new store of what the hosts know (shoal server recover)"

// socketPath is where clients on this host reach it.
func socketPath(dir string) string { return filepath.Join(dir, "etcd.sock") }

func socketEndpoint(dir string) string { return "unix://" + socketPath(dir) }

// sockaddr_un holds 108 bytes, one of them the closing zero (unix(7)).
const maxSocketPath = 107

// checkSocket reports a state folder that no etcd can have its socket in.
func checkSocket(dir string) error {
	if sock := socketPath(dir); len(sock) > maxSocketPath {
		return fmt.Errorf("start the embedded etcd: the path of its socket %s has %d characters, %d is the most; "+
			"use a state folder with a shorter path", sock, len(sock), maxSocketPath)
	}
	return nil
}

// closeTime is how long an etcd may take to end once it is told to.
const closeTime = 20 * time.Second

// startServer starts etcd. It is reached through the socket Dir/etcd.sock, and
// by other hosts if there are any: a voter alone needs no address for peers.
// It does not wait until a leader is elected; clients do. The context bounds the start: etcd waits
// without end for files that another process has locked. A process that waits for a disk, and cannot
// be killed, is waited for.
func startServer(ctx context.Context, sc serverConfig, log *slog.Logger) (*server, error) {
	if err := checkSocket(sc.Dir); err != nil {
		return nil, err
	}
	if free, err := Free(sc.Dir); err == nil && free < leastRoom {
		return nil, fmt.Errorf("the store does not start with less than %d MB free on the disk of %s: it has %d", leastRoom/1e6, sc.Dir, free/1e6)
	}
	fail := func(err error) error {
		return fmt.Errorf("start the embedded etcd on %s: %w%s", dataDir(sc.Dir), err, advice(err.Error(), sc.Peers != nil))
	}
	s := &server{endpoint: socketEndpoint(sc.Dir), started: time.Now(), leads: make(chan struct{}), exited: make(chan struct{})}
	reports, err := s.spawn(log)
	if err == nil {
		err = json.NewEncoder(s.agent).Encode(sc)
	}
	if err != nil {
		return nil, fail(err)
	}
	var first report
	given := context.AfterFunc(ctx, func() { s.process.Kill() }) // one that has ended is no error to us
	err = reports.Decode(&first)
	given()
	if err != nil {
		<-s.exited // that is why there is no report
		if ctx.Err() != nil {
			return nil, fmt.Errorf("start the embedded etcd on %s: it had not started yet: %w", dataDir(sc.Dir), ctx.Err())
		}
		return nil, fail(errors.New(cmp.Or(s.why, err.Error())))
	}
	if first.Failed != "" {
		<-s.exited
		return nil, fail(errors.New(first.Failed))
	}
	s.member = first.Member
	go func() {
		var next report
		if reports.Decode(&next) == nil && next.Leads {
			close(s.leads)
		}
	}()
	return s, nil
}

// leastRoom is how much of its disk has to be free for etcd to be started, in
// bytes: with less it would soon end again. It writes its log in pieces of 64 MB,
// of which one is begun.
const leastRoom int64 = 20e6

// Free is how many bytes are free on the disk that a folder is on.
func Free(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("look how much is free on the disk of %s: %w", dir, err)
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// DatabaseSize is the size of the database of the etcd in a state folder, in
// bytes; an error if there is none.
func DatabaseSize(dir string) (int64, error) {
	info, err := os.Stat(filepath.Join(dataDir(dir), "member", "snap", "db"))
	if err != nil {
		return 0, fmt.Errorf("look how large the store's database is: %w", err)
	}
	return info.Size(), nil
}

// advice says what to do about a store that does not start; "": that is in the
// reason. served says that it is one of a cluster's.
func advice(reason string, served bool) string {
	switch {
	case strings.Contains(reason, unix.ENOSPC.Error()):
		return "; free some room on that disk: the store starts by itself then"
	case strings.Contains(reason, "address already in use"), strings.Contains(reason, unix.EACCES.Error()), strings.Contains(reason, unix.EROFS.Error()):
		return ""
	}
	if served {
		return "; if its data are damaged, and two other hosts serve the store too, move that folder away and restart the agent: it goes on with theirs. " +
			"If fewer do, " + newStore
	}
	return "; if its data are damaged, restore a backup (shoal store restore), or move that folder away: shoal then starts with an empty store, and services get new VIPs"
}

// spawn starts the process. Its first file beyond the standard ones is the other
// end of the connection to it.
func (s *server) spawn(log *slog.Logger) (*json.Decoder, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	mine, theirs := os.NewFile(uintptr(ends[0]), "store"), os.NewFile(uintptr(ends[1]), "agent")
	defer theirs.Close()
	s.agent, err = net.FileConn(mine)
	mine.Close()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started the process for the end of the agent.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		process, logged, err := startChild(theirs)
		if err == nil {
			s.process = process.Process
		}
		if started <- err; err != nil {
			return
		}
		last := s.relay(logged, log)
		err = process.Wait()
		s.agent.Close()
		if !s.closing.Load() {
			s.why = cmp.Or(last, fmt.Sprint("its process ended: ", cmp.Or(err, errors.New("by itself"))))
		}
		close(s.exited)
	}()
	if err := <-started; err != nil {
		s.agent.Close()
		return nil, err
	}
	return json.NewDecoder(s.agent), nil
}

// startChild starts the program again as the process of an etcd, which has one end of
// the pair. It returns what the process logs, too.
func startChild(agent *os.File) (process *exec.Cmd, logged io.Reader, err error) {
	if IsChild() { // it would start itself without end
		return nil, nil, errors.New("start the process of the store: this program does not run it; call store.RunChild first where store.IsChild is true")
	}
	// The program that runs, even where another version lies in its place by now.
	c := &exec.Cmd{Path: "/proc/self/exe", Args: []string{childName}, ExtraFiles: []*os.File{agent}}
	// A signal that a terminal sends to the agent is not for it. Where it hangs, or is stopped, it does not notice that the agent is
	// gone, and would keep its ports and files from the next one's: so the kernel ends it then.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if logged, err = c.StderrPipe(); err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("start the process of the store: %w", err)
	}
	return c, logged, nil
}

// relay writes what the process logs into this one's log, until it ends. It
// returns the last error in it, or what the process died of.
func (s *server) relay(from io.Reader, log *slog.Logger) (last string) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<20)
	var died []string // what the runtime says of a panic
	for lines.Scan() {
		var line map[string]any
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			if len(died) < 50 {
				died = append(died, lines.Text())
			}
			continue
		}
		msg, _ := line[slog.MessageKey].(string)
		var level slog.Level
		if text, ok := line[slog.LevelKey].(string); !ok || level.UnmarshalText([]byte(text)) != nil {
			level = slog.LevelWarn
		}
		var args []any
		for k, v := range line {
			if k != slog.MessageKey && k != slog.LevelKey && k != slog.TimeKey {
				args = append(args, k, v)
			}
		}
		if level >= slog.LevelError {
			last = msg
			if why, ok := line["error"].(string); ok {
				last += ": " + why
			}
		}
		if !s.quiet.Load() {
			log.Log(context.Background(), level, msg, args...)
		}
	}
	io.Copy(io.Discard, from) // a line that is too long is no reason to block it
	if len(died) > 0 {
		last = died[0]
		log.Error("the process of the store died", "output", strings.Join(died, "\n"))
	}
	return last
}

// id is its member's.
func (s *server) id() uint64 { return s.member }

func (s *server) stopped() bool {
	select {
	case <-s.exited:
		return true
	default:
		return s.closing.Load()
	}
}

// ready waits until an etcd has a leader and answers.
func (s *server) ready(ctx context.Context) error {
	select {
	case <-s.leads:
		return nil
	case <-s.exited:
		return errors.New("the embedded etcd stopped; see the log")
	case <-ctx.Done():
		return fmt.Errorf("the embedded etcd finds no leader: %w", ctx.Err())
	}
}

// moveLeader hands leadership to one of the voters, if this one has it.
func (s *server) moveLeader(ctx context.Context, voters []uint64) error {
	c, err := etcd.Dial([]string{s.endpoint}, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, id := range voters {
		rctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
		st, serr := c.Status(rctx, s.endpoint)
		if serr == nil && st.Leader != s.member {
			cancel()
			return nil
		}
		if err = serr; err == nil {
			_, err = c.MoveLeader(rctx, id)
		}
		cancel()
	}
	if err != nil {
		return fmt.Errorf("no other voter takes the lead: %w", err)
	}
	return nil
}

// close stops etcd with everything written. Closing twice does nothing.
func (s *server) close() {
	s.quiet.Store(true)
	if s.closing.Swap(true) {
		<-s.exited
		return
	}
	if err := json.NewEncoder(s.agent).Encode(order{Close: true}); err == nil {
		select {
		case <-s.exited:
			return
		case <-time.After(closeTime):
		}
	}
	s.process.Kill() // one that has ended by now is no error
	<-s.exited
}
