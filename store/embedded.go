package store

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"expvar"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// Every change of a task is a revision. Only a watch that was interrupted
	// reads old ones; one that was interrupted for longer lists again.
	etcdKeepRevisions = "10000"
	// Past its quota etcd takes no more writes. 10,000 services with three
	// tasks each fill some 40 MB, and the revisions kept as much again.
	etcdQuota = 2 << 30
	// Raft's log is kept in memory from one snapshot to the next, with some
	// entries more for a follower that is behind, and replayed at a start. With
	// the defaults, 10,000 and 5,000, that takes seconds after a busy time.
	etcdSnapshotCount  = 1000
	etcdCatchUpEntries = 500

	// Raft counts its time in ticks, in milliseconds. A voter alone has nobody to
	// send heartbeats to and nobody who could take its place: each tick wakes the
	// agent for nothing, twenty times a second cost it half of what it used at rest.
	// It does not wait for a timeout before it serves, see campaign.
	loneTick, loneElection = 500, 2500

	// How long, and how many, writes are gathered before they are committed to the
	// database, for which etcd wakes up each time whether or not there are any. Raft's
	// log has every write on the disk before it is answered, so none is lost: after a
	// crash, those not committed are read from there.
	etcdBatchInterval = time.Second
	etcdBatchLimit    = 1000
)

// embedded is the etcd inside this process.
type embedded struct {
	etcd *embed.Etcd
}

// startEtcd starts etcd in this process. It does not wait until a leader is
// elected; clients do. check tells why a client's certificate is not good any
// more; nil: none is asked about.
func startEtcd(sc serverConfig, check func(*x509.Certificate) error, log *slog.Logger) (*embedded, error) {
	data, sock := dataDir(sc.Dir), socketPath(sc.Dir)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(data, 0o700); err != nil {
		return nil, err
	}
	// A killed agent leaves its socket behind. Whoever holds the lock on the
	// state folder knows that nobody serves it any more.
	if err := os.Remove(sock); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}

	c := embed.NewConfig()
	c.Name = sc.Name
	c.Dir = data
	client := url.URL{Scheme: "unix", Path: sock}
	c.ListenClientUrls = []url.URL{client}
	c.AdvertiseClientUrls = []url.URL{client}
	c.ListenPeerUrls = nil
	// A member has to have an address, listened on or not.
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	c.TickMs, c.ElectionMs = loneTick, loneElection
	if sc.Peers != nil {
		sc.Peers.configure(c, check)
	}
	c.InitialCluster = c.InitialClusterFromName(sc.Name)
	if sc.Join != nil {
		var members []string
		for name, u := range sc.Join {
			members = append(members, name+"="+u)
		}
		c.InitialCluster = strings.Join(members, ",")
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.InitialClusterToken = "shoal"
	c.StrictReconfigCheck = !sc.Unchecked
	c.UnsafeNoFsync = sc.Unsynced
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = etcdKeepRevisions
	c.BackendBatchInterval, c.BackendBatchLimit = etcdBatchInterval, etcdBatchLimit
	c.QuotaBackendBytes = cmp.Or(sc.Quota, etcdQuota)
	c.SnapshotCount = etcdSnapshotCount
	c.SnapshotCatchUpEntries = etcdCatchUpEntries
	c.EnableGRPCGateway = false
	// On a small disk a commit takes longer than etcd likes; that alone is no
	// news.
	c.WarningApplyDuration = time.Second
	c.WarningUnaryRequestDuration = time.Second
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(log))

	awaitReleased(c.Dir)
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(sock, 0o600); err != nil {
		stop(e)
		return nil, err
	}
	if sc.Peers == nil {
		go campaign(e.Server)
	}
	return &embedded{e}, nil
}

// awaitReleased waits until nobody holds the files of etcd's log locked, for some
// seconds at most: then etcd's start says which one is. Where an etcd of this
// process has just closed them, programs that it was starting meanwhile still
// hold them, from the fork to the exec (fcntl_locking(2), on locks of open file
// descriptions).
func awaitReleased(dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal")) // the pattern is well formed
	for until := time.Now().Add(releasedWithin); len(files) > 0 && time.Now().Before(until); {
		l, err := fileutil.TryLockFile(files[0], os.O_WRONLY, fileutil.PrivateFileMode)
		if errors.Is(err, fileutil.ErrLocked) {
			time.Sleep(releasedWithin / 1000)
			continue
		}
		if err == nil {
			l.Close()
		}
		files = files[1:]
	}
}

const releasedWithin = 5 * time.Second

// campaign has a voter alone elect itself at once. By itself it would wait for
// an election timeout, in case there is a leader; but it is reached by no other
// host, so there is none. Raft has a message for that, with which a leader
// makes another its successor. It is sent once the log is taken in: until then
// raft reads in it who the members are, in what etcd may just be giving up, and
// panics. One who is not alone any more is not made leader by it: that takes the
// others' votes.
func campaign(s *etcdserver.EtcdServer) {
	id := uint64(s.MemberID())
	again := time.NewTicker(campaignPause)
	defer again.Stop()
	for uint64(s.Leader()) == raft.None && len(s.Cluster().Members()) <= 1 {
		st := raftStatus()
		if st.ID != 0 && st.ID != id {
			return // etcd tells of another one in this process: its own timeout comes
		}
		if commit := st.HardState.GetCommit(); commit > 0 && st.Applied >= commit {
			if err := s.Process(context.Background(), &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: &id, To: &id}); err != nil {
				return // it has stopped
			}
		}
		select {
		case <-again.C:
		case <-s.StopNotify():
			return
		}
	}
}

const campaignPause = 5 * time.Millisecond

// raftStatus is what raft says of the member of this process that started last,
// as etcd publishes it; empty if it does not.
func raftStatus() raft.Status {
	f, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return raft.Status{}
	}
	st, _ := f.Value().(raft.Status)
	return st
}

// close stops etcd with everything written.
func (e *embedded) close() { stop(e.etcd) }

// stop stops an etcd. Its own Close waits until its listeners are served, which
// they are only once it has found a leader: with its peers away, Close alone
// would wait for ever.
func stop(e *embed.Etcd) {
	select {
	case <-e.Server.ReadyNotify():
	default:
		e.Server.HardStop()
	}
	e.Close()
}

// recoverStatus answers a status request to a member that was removed. It serves
// for a second more, in which etcd looks for it among the members and panics
// (RaftCluster.IsLocalMemberLearner, of 3.7).
func recoverStatus(ctx context.Context, r any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (reply any, err error) {
	if info.FullMethod == etcdserverpb.Maintenance_Status_FullMethodName {
		defer func() {
			if p := recover(); p != nil {
				reply, err = nil, status.Errorf(codes.FailedPrecondition, "it was removed from the store: %v", p)
			}
		}()
	}
	return handle(ctx, r)
}
