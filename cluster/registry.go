package cluster

import (
	"context"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Store is where the hosts agree: a part of the catalog's store, under a
// prefix of its own. Keys are paths such as members/NODE.
type Store interface {
	// Get returns a key's value and the revision it was written at. Where there
	// is no such key, the revision is 0 and the error nil.
	Get(ctx context.Context, key string) (value []byte, revision int64, err error)
	// List returns the keys that begin with prefix, with their values.
	List(ctx context.Context, prefix string) (map[string][]byte, error)
	// Commit writes all of write (a nil value deletes its key), in one
	// transaction, if every key of unchanged still has the revision given there
	// (0: is not there). It tells whether it did.
	Commit(ctx context.Context, unchanged map[string]int64, write map[string][]byte) (done bool, err error)
	// Watch returns a channel that receives when keys beginning with prefix may
	// have changed; several changes may be told as one. It is closed when ctx
	// ends, and not before.
	Watch(ctx context.Context, prefix string) <-chan struct{}
}

// What is in the store, each value as JSON:
//
//	tokens/ID      tokenRecord
//	members/NODE   memberRecord
//	revoked/KEY    revocation
//	authority      sharedAuthority, where hosts share the store of their user
const (
	tokensRoot  = "tokens/"
	membersRoot = "members/"
	revokedRoot = "revoked/"
)

// ErrNameTaken says that another host joined under a name. Where that host is
// gone for good, shoal node rm NAME frees the name.
var ErrNameTaken = errors.New("the name is taken by another host")

// ErrRemoved says that a host was removed from the cluster, or never was in it.
var ErrRemoved = errors.New("the host is no member of the cluster")

// Reasons for refusing a token; told in the server's log only.
var (
	errTokenUnknown = errors.New("no such token: it was never made, or removed")
	errTokenExpired = errors.New("the token has expired")
	errTokenSpent   = errors.New("the token's uses are spent")
	errKeyRevoked   = errors.New("the key is one of a removed host")
	errNodeOfOther  = fmt.Errorf("the token is good, but the node's name is not: %w", ErrNameTaken)
)

// Token is a join token that was made. Its secret is nowhere kept.
type Token struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Uses    int       `json:"uses"` // left
}

type tokenRecord struct {
	Token
	Hash []byte `json:"hash"` // of the secret
}

// Member is a host that has joined and was not removed.
type Member struct {
	Node   string     `json:"node"`
	Addr   netip.Addr `json:"addr"`
	Key    string     `json:"key"` // see [Identity.Key]
	CA     bool       `json:"ca"`  // it holds the CA's key
	Joined time.Time  `json:"joined"`
}

type memberRecord struct {
	Member
	Token string   `json:"token,omitempty"` // the ID of the one it joined with
	Certs []issued `json:"certs"`           // that have not ended
}

// issued is a certificate given out.
type issued struct {
	Serial string    `json:"serial"` // hex
	Ends   time.Time `json:"ends"`
}

func (m *memberRecord) addCert(c *x509.Certificate, now time.Time) {
	m.Certs = slices.DeleteFunc(m.Certs, func(i issued) bool { return i.Ends.Before(now) })
	serial := hex.EncodeToString(c.SerialNumber.Bytes())
	if !slices.ContainsFunc(m.Certs, func(i issued) bool { return i.Serial == serial }) {
		m.Certs = append(m.Certs, issued{serial, c.NotAfter})
	}
}

// revocation is what remains of a removed host until its last certificate has
// ended.
type revocation struct {
	Node    string    `json:"node"`
	Removed time.Time `json:"removed"`
	Certs   []issued  `json:"certs"`
}

func (r revocation) ends() (t time.Time) {
	for _, c := range r.Certs {
		if c.Ends.After(t) {
			t = c.Ends
		}
	}
	return t
}

// Registry keeps tokens and members in the store.
type Registry struct {
	store Store
	now   func() time.Time
}

// NewRegistry returns the registry in a store.
func NewRegistry(s Store) *Registry { return &Registry{s, time.Now} }

// The limits of a token.
const (
	DefaultTokenTTL = time.Hour
	MaxTokenTTL     = 30 * 24 * time.Hour
	MaxTokenUses    = 1000
)

// expiredFor is how long an expired token is remembered, so that the log can
// say what was wrong with it.
const expiredFor = 24 * time.Hour

// CreateToken makes a token with which hosts can join the cluster of id, so
// many times (1 to [MaxTokenUses]; 0: once) and for so long (to [MaxTokenTTL];
// 0: [DefaultTokenTTL]). The text it returns is the only copy.
func (r *Registry) CreateToken(ctx context.Context, id *Identity, ttl time.Duration, uses int) (string, error) {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if uses == 0 {
		uses = 1
	}
	if ttl < time.Second || ttl > MaxTokenTTL {
		return "", fmt.Errorf("a token valid for %s: use 1s to %s", ttl, MaxTokenTTL)
	}
	if uses < 1 || uses > MaxTokenUses {
		return "", fmt.Errorf("a token for %d hosts: use 1 to %d", uses, MaxTokenUses)
	}
	s := newSecret()
	hash := s.hash()
	now := r.now().UTC().Truncate(time.Second)
	rec := tokenRecord{Token{tokenID(hash), now, now.Add(ttl), uses}, hash[:]}
	var old []string
	err := list(ctx, r.store, tokensRoot, func(id string, t tokenRecord) {
		if now.After(t.Expires.Add(expiredFor)) {
			old = append(old, tokensRoot+id)
		}
	})
	if err == nil {
		err = r.deleteKeys(ctx, old)
	}
	var done bool
	if err == nil {
		done, err = r.store.Commit(ctx, map[string]int64{tokensRoot + rec.ID: 0}, map[string][]byte{tokensRoot + rec.ID: encode(rec)})
	}
	if err == nil && !done {
		err = errors.New("a token of that ID exists; try again")
	}
	if err != nil {
		return "", fmt.Errorf("make a join token: %w", err)
	}
	return formatToken(id.caSum, s), nil
}

// Tokens are those that were made and not removed, newest first; also such as
// are spent, or expired, until [Registry.CreateToken] forgets them a day later.
func (r *Registry) Tokens(ctx context.Context) ([]Token, error) {
	var ts []Token
	err := list(ctx, r.store, tokensRoot, func(_ string, t tokenRecord) { ts = append(ts, t.Token) })
	slices.SortFunc(ts, func(a, b Token) int { return b.Created.Compare(a.Created) })
	return ts, err
}

// again is how soon work is done again that failed.
const again = 5 * time.Second

// follow does work now, whenever keys that begin with prefix may have changed,
// and once more a while after it failed, until ctx ends.
func (r *Registry) follow(ctx context.Context, prefix string, work func() error) {
	changed := r.store.Watch(ctx, prefix) // before the first look: nothing is missed
	for ctx.Err() == nil {
		var retry <-chan time.Time
		if work() != nil {
			retry = time.After(again)
		}
		select {
		case <-ctx.Done():
		case <-retry:
		case <-changed:
		}
	}
}

// WatchTokens returns a channel that receives when Tokens may have changed. It
// is closed when ctx ends.
func (r *Registry) WatchTokens(ctx context.Context) <-chan struct{} {
	return r.store.Watch(ctx, tokensRoot)
}

// FollowMembers calls f with the hosts of the cluster, now and whenever they may have
// changed, until ctx ends.
func (r *Registry) FollowMembers(ctx context.Context, f func([]Member)) {
	r.follow(ctx, membersRoot, func() error {
		ms, err := r.Members(ctx)
		if err == nil {
			f(ms)
		}
		return err
	})
}

// RemoveToken revokes a token: the one of that ID, of the only ID that begins
// like this, or of that text. If there is none, the error is
// an [ErrNoToken] and names those that there are.
func (r *Registry) RemoveToken(ctx context.Context, ref string) error {
	tokens, err := r.Tokens(ctx)
	if err != nil {
		return fmt.Errorf("revoke a join token: %w", err)
	}
	id, err := findToken(tokens, ref)
	if err != nil {
		return err
	}
	if _, err := r.store.Commit(ctx, nil, map[string][]byte{tokensRoot + id: nil}); err != nil {
		return fmt.Errorf("revoke join token %s: %w", id, err)
	}
	return nil
}

// Members are the hosts of the cluster, by name.
func (r *Registry) Members(ctx context.Context) ([]Member, error) {
	var ms []Member
	err := list(ctx, r.store, membersRoot, func(_ string, m memberRecord) { ms = append(ms, m.Member) })
	slices.SortFunc(ms, func(a, b Member) int { return strings.Compare(a.Node, b.Node) })
	return ms, err
}

// Enrol writes down this host as it is now: its address, its certificate,
// whether it holds the CA's key. To be called when the store can be reached
// after the start and after [Identity.FetchCA] and [Identity.DropCA]. The first
// host becomes a member by it, and so does one whose record was lost with an older
// store: its certificate says that it was admitted. Of one that was removed the error is
// [ErrRemoved], and [ErrNameTaken] if its name is another's by now.
func (r *Registry) Enrol(ctx context.Context, id *Identity) error {
	err := r.update(ctx, id.Node(), id.Key(), func(m *memberRecord, revision int64) error {
		if revision == 0 {
			m.Joined = r.now().UTC().Truncate(time.Second)
		}
		m.Addr, m.CA = id.host.Addr, id.HoldsCA()
		m.addCert(id.leaf(), r.now())
		return nil
	})
	if err != nil {
		return fmt.Errorf("enrol node %s: %w", id.Node(), err)
	}
	return nil
}

// Remove takes a node out of the cluster: its name is free, its key refused by
// every host from the moment it hears of it. Of a node that is no member the
// error is [ErrRemoved].
func (r *Registry) Remove(ctx context.Context, node string) error {
	for range attempts {
		value, revision, err := r.store.Get(ctx, membersRoot+node)
		if err == nil && revision == 0 {
			err = ErrRemoved
		}
		var m memberRecord
		if err == nil {
			err = json.Unmarshal(value, &m)
		}
		if err == nil {
			err = r.forgetRevoked(ctx)
		}
		var done bool
		if err == nil {
			done, err = r.store.Commit(ctx, map[string]int64{membersRoot + node: revision}, map[string][]byte{
				membersRoot + node:  nil,
				revokedRoot + m.Key: encode(r.revoke(m)),
			})
		}
		if err != nil {
			return fmt.Errorf("remove node %s: %w", node, err)
		}
		if done {
			return nil
		}
	}
	return fmt.Errorf("remove node %s: %w", node, errBusy)
}

// revoke takes back the certificates of a member.
func (r *Registry) revoke(m memberRecord) revocation {
	return revocation{m.Node, r.now().UTC().Truncate(time.Second), m.Certs}
}

// revokeAgain writes revocations that the store has lost.
func (r *Registry) revokeAgain(ctx context.Context, lost map[string]revocation) error {
	for key, rev := range lost {
		if _, err := r.store.Commit(ctx, map[string]int64{revokedRoot + key: 0}, map[string][]byte{revokedRoot + key: encode(rev)}); err != nil {
			return err
		}
	}
	return nil
}

// forgetRevoked deletes the revocations of certificates that have all ended.
func (r *Registry) forgetRevoked(ctx context.Context) error {
	all, err := r.revoked(ctx)
	if err != nil {
		return err
	}
	var old []string
	for key, rev := range all {
		if r.now().After(rev.ends().Add(skew)) {
			old = append(old, revokedRoot+key)
		}
	}
	return r.deleteKeys(ctx, old)
}

// maxCommit is how many keys are written in one transaction: etcd refuses more
// than 128 unless told otherwise.
const maxCommit = 100

// deleteKeys deletes keys, however many.
func (r *Registry) deleteKeys(ctx context.Context, keys []string) error {
	for some := range slices.Chunk(keys, maxCommit) {
		write := map[string][]byte{}
		for _, key := range some {
			write[key] = nil
		}
		if _, err := r.store.Commit(ctx, nil, write); err != nil {
			return err
		}
	}
	return nil
}

func (r *Registry) revoked(ctx context.Context) (map[string]revocation, error) {
	all := map[string]revocation{}
	err := list(ctx, r.store, revokedRoot, func(key string, rev revocation) { all[key] = rev })
	return all, err
}

// attempts bounds how often a record is read and tried again: each failure
// means that another host wrote in between.
const attempts = 32

var errBusy = errors.New("its records were changed by others all the time; try again")

// token is the record of a secret's token, which may be spent.
func (r *Registry) token(ctx context.Context, s secret) (t tokenRecord, revision int64, err error) {
	hash := s.hash()
	id := tokenID(hash)
	value, revision, err := r.store.Get(ctx, tokensRoot+id)
	if err == nil && revision != 0 {
		if err = json.Unmarshal(value, &t); err != nil {
			err = fmt.Errorf("the record of token %s: %w", id, err)
		}
	}
	switch {
	case err != nil:
	case revision == 0 || subtle.ConstantTimeCompare(t.Hash, hash[:]) != 1:
		err = errTokenUnknown
	case !r.now().Before(t.Expires):
		err = errTokenExpired
	}
	return t, revision, err
}

// addrTakenError says that another member has the address of one that joins.
type addrTakenError struct {
	addr netip.Addr
	node string // who has it
}

func (e *addrTakenError) Error() string {
	return fmt.Sprintf("the token is good, but the address %s is that of node %s", e.addr, e.node)
}

// application is what the store says of a host that wants to join.
type application struct {
	token     tokenRecord
	member    memberRecord // what is there under its name
	unchanged map[string]int64
	again     bool // it was admitted with this very token before, with the same key
}

// examine tells whether a host may join by a secret: whether that is one of a
// valid token with a use left, and neither name nor address nor key speaks
// against it. A host that was admitted with this very token before, with the same
// key, is so again without a use: its answer may have been lost on the way.
func (r *Registry) examine(ctx context.Context, s secret, m Member) (a application, err error) {
	t, tokenRev, err := r.token(ctx, s)
	if err != nil {
		return a, err
	}
	rec, memberRev, err := r.member(ctx, m.Node)
	if err != nil {
		return a, err
	}
	_, revokedRev, err := r.store.Get(ctx, revokedRoot+m.Key)
	if err != nil {
		return a, err
	}
	members, err := r.Members(ctx)
	if err != nil {
		return a, err
	}
	other := slices.IndexFunc(members, func(o Member) bool { return o.Addr == m.Addr && o.Node != m.Node })
	again := memberRev != 0 && rec.Key == m.Key && rec.Token == t.ID
	switch {
	case t.Uses < 1 && !again:
		return a, errTokenSpent
	case memberRev != 0 && rec.Key != m.Key:
		return a, errNodeOfOther
	case other >= 0:
		return a, &addrTakenError{m.Addr, members[other].Node}
	case revokedRev != 0:
		return a, errKeyRevoked
	}
	unchanged := map[string]int64{tokensRoot + t.ID: tokenRev, membersRoot + m.Node: memberRev, revokedRoot + m.Key: 0}
	return application{t, rec, unchanged, again}, nil
}

// admit makes a host that may join a member, and spends a use of the token, in
// one transaction.
func (r *Registry) admit(ctx context.Context, s secret, m Member, cert *x509.Certificate) error {
	for range attempts {
		a, err := r.examine(ctx, s, m)
		if err != nil {
			return err
		}
		t, rec, now := a.token, a.member, r.now()
		write := map[string][]byte{}
		if !a.again {
			t.Uses--
			write[tokensRoot+t.ID] = encode(t)
			rec.Joined = now.UTC().Truncate(time.Second)
		}
		rec.Node, rec.Key, rec.Addr, rec.Token = m.Node, m.Key, m.Addr, t.ID
		rec.addCert(cert, now)
		write[membersRoot+m.Node] = encode(rec)
		if done, err := r.store.Commit(ctx, a.unchanged, write); err != nil || done {
			return err
		}
	}
	return errBusy
}

// enrol makes a host a member that admits itself. One of the same name and
// address is that very host, whose folder was lost: its old key is revoked.
func (r *Registry) enrol(ctx context.Context, m Member, cert *x509.Certificate) error {
	for range attempts {
		old, revision, err := r.member(ctx, m.Node)
		if err != nil {
			return err
		}
		if revision != 0 && old.Addr != m.Addr {
			return ErrNameTaken
		}
		rec := memberRecord{Member: m}
		rec.Joined = r.now().UTC().Truncate(time.Second)
		rec.addCert(cert, r.now())
		write := map[string][]byte{membersRoot + m.Node: encode(rec)}
		if revision != 0 {
			write[revokedRoot+old.Key] = encode(r.revoke(old))
		}
		if done, err := r.store.Commit(ctx, map[string]int64{membersRoot + m.Node: revision}, write); err != nil || done {
			return err
		}
	}
	return errBusy
}

// renew writes down a new certificate of a member, and its address. As in [Registry.Enrol],
// its record may have been lost.
func (r *Registry) renew(ctx context.Context, node, key string, addr netip.Addr, cert *x509.Certificate) error {
	return r.update(ctx, node, key, func(m *memberRecord, revision int64) error {
		if revision == 0 {
			m.Joined = r.now().UTC().Truncate(time.Second)
		}
		m.Addr = addr
		m.addCert(cert, r.now())
		return nil
	})
}

// update changes the record of a node that is free (revision 0) or the key's.
func (r *Registry) update(ctx context.Context, node, key string, change func(m *memberRecord, revision int64) error) error {
	for range attempts {
		m, revision, err := r.member(ctx, node)
		if err != nil {
			return err
		}
		if revision != 0 && m.Key != key {
			return ErrNameTaken
		}
		before := encode(m)
		m.Node, m.Key = node, key
		if err := change(&m, revision); err != nil {
			return err
		}
		if revision != 0 && string(encode(m)) == string(before) {
			return nil
		}
		done, err := r.store.Commit(ctx,
			map[string]int64{membersRoot + node: revision, revokedRoot + key: 0},
			map[string][]byte{membersRoot + node: encode(m)})
		if err != nil || done {
			return err
		}
		if _, revoked, err := r.store.Get(ctx, revokedRoot+key); err != nil {
			return err
		} else if revoked != 0 {
			return ErrRemoved
		}
	}
	return errBusy
}

func (r *Registry) member(ctx context.Context, node string) (m memberRecord, revision int64, err error) {
	value, revision, err := r.store.Get(ctx, membersRoot+node)
	if err == nil && revision != 0 {
		if err = json.Unmarshal(value, &m); err != nil {
			err = fmt.Errorf("the record of node %s: %w", node, err)
		}
	}
	return m, revision, err
}

// list reads all records under root. One that cannot be read is passed over:
// it must not hide the others.
func list[T any](ctx context.Context, s Store, root string, each func(name string, t T)) error {
	values, err := s.List(ctx, root)
	if err != nil {
		return fmt.Errorf("list %s: %w", strings.TrimSuffix(root, "/"), err)
	}
	for key, value := range values {
		var t T
		if json.Unmarshal(value, &t) == nil {
			each(strings.TrimPrefix(key, root), t)
		}
	}
	return nil
}

// encode writes a record. None of the types can fail to be written.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
