package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"shoal/model"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// port is a port of the routing mesh.
type port struct {
	protocol model.Protocol
	number   uint16
}

// String is "tcp/8080", as in a key.
func (p port) String() string { return fmt.Sprintf("%s/%d", p.protocol, p.number) }

func parsePort(s string) (port, error) {
	proto, number, _ := strings.Cut(s, "/")
	p, err := model.ParseProtocol(proto)
	if err != nil {
		return port{}, err
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || n == 0 {
		return port{}, fmt.Errorf("port %q: use 1 to 65535", number)
	}
	return port{p, uint16(n)}, nil
}

// ClaimPort makes a port of the routing mesh a service's, on every host, until
// it is released. It does nothing if the service has it already. If another
// service has it, the error is a [*model.PortTakenError].
func (c *Catalog) ClaimPort(ctx context.Context, claim model.PortClaim) error {
	p := port{claim.Protocol, claim.Port}
	if _, err := parsePort(p.String()); err != nil {
		return fmt.Errorf("publish %s for %s: %w", p, claim.Service, err)
	}
	key := publishKey(p)
	r, err := c.commit(ctx,
		[]clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)},
		[]clientv3.Op{clientv3.OpPut(key, encode(claim.Service))},
		[]clientv3.Op{clientv3.OpGet(key)})
	if err != nil {
		return fmt.Errorf("publish %d/%s for %s: %w", p.number, p.protocol, claim.Service, err)
	}
	if r.Succeeded {
		return c.await(ctx, r.Header.Revision)
	}
	held, err := decodeClaim(p.String(), first(r, 0).Value)
	if err != nil {
		return fmt.Errorf("publish %d/%s for %s: the record %s cannot be read: %w; delete it with etcdctl if no service publishes the port",
			p.number, p.protocol, claim.Service, key, err)
	}
	if held.Service != claim.Service {
		return &model.PortTakenError{Protocol: p.protocol, Port: p.number, Holder: held.Service}
	}
	return nil
}

// ReleasePort releases a port of the routing mesh, if the service holds it.
func (c *Catalog) ReleasePort(ctx context.Context, claim model.PortClaim) error {
	if _, err := c.releasePorts(ctx, claim.Service, publishKey(port{claim.Protocol, claim.Port})); err != nil {
		return fmt.Errorf("release %d/%s of %s: %w", claim.Port, claim.Protocol, claim.Service, err)
	}
	return nil
}

// releasePorts releases those ports of a service whose key is, or begins
// with, the one given. It tells how many they were.
func (c *Catalog) releasePorts(ctx context.Context, id model.ServiceID, key string, opts ...clientv3.OpOption) (n int, err error) {
	r, err := c.commit(ctx, nil, []clientv3.Op{clientv3.OpGet(key, opts...)}, nil)
	if err != nil {
		return 0, err
	}
	var keys []string
	for _, kv := range r.Responses[0].GetResponseRange().Kvs {
		var holder model.ServiceID
		if json.Unmarshal(kv.Value, &holder) == nil && holder == id {
			keys = append(keys, string(kv.Key))
		}
	}
	// A claim never passes from one service to another without being deleted,
	// so a newer revision of it is enough to leave it alone.
	rev := r.Header.Revision
	for len(keys) > 0 {
		batch := keys[:min(len(keys), batchOps)]
		keys = keys[len(batch):]
		var conds []clientv3.Cmp
		var ops []clientv3.Op
		for _, key := range batch {
			conds = append(conds, clientv3.Compare(clientv3.ModRevision(key), "<", rev+1))
			ops = append(ops, clientv3.OpDelete(key))
		}
		if r, err = c.commit(ctx, conds, ops, nil); err != nil {
			return n, err
		}
		if r.Succeeded {
			n += len(batch)
		}
	}
	return n, c.await(ctx, r.Header.Revision)
}
